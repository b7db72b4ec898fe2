"""What is cut together: a traced program, one rule per family of operations, channel groups.

Nothing here knows PaddleOCR; a ``paddle.nn.Layer`` goes in, :class:`ChannelGroup` objects come out.
"""
