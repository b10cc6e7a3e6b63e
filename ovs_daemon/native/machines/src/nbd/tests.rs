//! Whole action lists, and: however the stream is cut, it means the same.
