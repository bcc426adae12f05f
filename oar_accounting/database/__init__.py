"""The one room that knows that databases differ: dialects, bulk data, ranges of ids, sockets."""
