"""Channel groups drawn: which layers, what flows between them, and where the channels stand."""
