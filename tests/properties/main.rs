//! Properties of what can only be seen from outside: label storage areas of any contents, and
//! requests in any layout against a plain array of bytes.
//!
//! Properties of the arithmetic inside the rooms stand beside it. `PROPTEST_CASES` sets the number
//! of cases of each.

mod labels;
mod requests;
