"""The report's one script: long tables can be sorted, and layers searched.

The page says everything without it. It makes no requests, and nothing from the report's data
becomes code: the page allows this text alone, by its digest.
"""

from __future__ import annotations

import base64
import hashlib

SCRIPT = """
(function () {
  "use strict";
  var tools = document.getElementById("tools");
  var table = document.getElementById("layers");
  var body = table.tBodies[0];
  var rows = Array.from(body.rows);
  var figures = Array.from(document.querySelectorAll("figure[data-layer]"));
  var search = document.getElementById("search");
  var shown = document.getElementById("shown");
  var heads = Array.from(table.tHead.rows[0].cells);

  function value(row, column) {
    var said = row.cells[column].getAttribute("data-value");
    return column === 0 ? said.toLowerCase() : said === "" ? -Infinity : Number(said);
  }

  function sort(column, direction) {
    var ordered = rows.slice();
    if (direction !== "none") {
      ordered.sort(function (a, b) {
        var x = value(a, column), y = value(b, column);
        return (x < y ? -1 : x > y ? 1 : 0) * (direction === "ascending" ? 1 : -1);
      });
    }
    ordered.forEach(function (row) { body.appendChild(row); });
    heads.forEach(function (head, k) {
      head.setAttribute("aria-sort", k === column ? direction : "none");
    });
  }

  heads.forEach(function (head, column) {
    var button = document.createElement("button");
    button.type = "button";
    while (head.firstChild) { button.appendChild(head.firstChild); }
    head.appendChild(button);
    head.setAttribute("aria-sort", "none");
    var next = column === 0
      ? { none: "ascending", ascending: "descending", descending: "none" }
      : { none: "descending", descending: "ascending", ascending: "none" };
    button.addEventListener("click", function () {
      sort(column, next[head.getAttribute("aria-sort")]);
    });
  });

  search.addEventListener("input", function () {
    var words = search.value.toLowerCase().split(/\\s+/);
    function fits(name) {
      return words.every(function (word) { return name.toLowerCase().indexOf(word) >= 0; });
    }
    var count = 0;
    rows.forEach(function (row) {
      row.hidden = !fits(row.cells[0].getAttribute("data-value"));
      count += row.hidden ? 0 : 1;
    });
    figures.forEach(function (figure) {
      figure.hidden = !fits(figure.getAttribute("data-layer"));
    });
    shown.textContent = count + " of " + rows.length + " layers";
  });

  tools.hidden = false;
})();
"""

_DIGEST = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()

POLICY = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_DIGEST}'"
"""What a browser may load and run for the page: its own style, and this script."""
