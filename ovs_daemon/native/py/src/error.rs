//! How an engine error becomes a Python exception.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(
    ovs_daemon._native,
    EngineError,
    PyException,
    "The engine refused or failed; args are (code, what, why, fix)."
);

/// A preset that makes no sense.
pub(crate) fn refuse_preset(error: alba::preset::PresetError) -> PyErr {
    EngineError::new_err(("BAD_PRESET", "cannot use the preset", error.why, error.fix))
}

/// The four parts of an engine error, in the order that `ovs_daemon.errors` expects them.
pub(crate) fn raise(error: engine::Error) -> PyErr {
    EngineError::new_err((
        error.code.to_string(),
        error.what.to_string(),
        error.why.to_string(),
        error.fix.to_string(),
    ))
}
