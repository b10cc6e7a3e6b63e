//! `ovs_daemon._native`: the engine as Python sees it.
//!
//! Everything crosses the border as JSON text or plain integers and strings, so that the Python
//! side (`ovs_daemon/_native.pyi`) and the engine agree on one documented shape and no Rust type
//! leaks. Every call releases the GIL while the engine works.

#![allow(
    unsafe_code,
    reason = "PyO3's macros expand to unsafe glue; nothing unsafe is written by hand here"
)]

mod engine;
mod error;

use pyo3::prelude::*;

/// The module `ovs_daemon._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", ::engine::RELEASE)?;
    module.add("EngineError", module.py().get_type::<error::EngineError>())?;
    module.add_class::<engine::Engine>()?;
    Ok(())
}
