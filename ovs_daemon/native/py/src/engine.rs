//! The class `Engine`: one per process, shared by all Python threads.

use pyo3::prelude::*;

use crate::error::{raise, refuse_preset};

/// The storage engine: shard threads that host volumes and their front ends.
///
/// Shapes of the JSON texts, units and errors are documented in `ovs_daemon/_native.pyi`.
#[pyclass(frozen, module = "ovs_daemon._native")]
pub(crate) struct Engine {
    inner: engine::Engine,
}

impl Engine {
    /// Runs one engine call without the GIL: other Python threads go on while it blocks.
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&engine::Engine) -> Result<T, engine::Error> + Send,
    ) -> PyResult<T> {
        let inner = &self.inner;
        py.detach(|| call(inner)).map_err(raise)
    }

    /// Like [`Engine::run`] for calls whose answer carries nothing.
    fn perform<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&engine::Engine) -> Result<T, engine::Error> + Send,
    ) -> PyResult<()> {
        self.run(py, call).map(drop)
    }
}

#[pymethods]
impl Engine {
    #[new]
    fn new(py: Python<'_>, config_json: &str) -> PyResult<Self> {
        let inner = py.detach(|| engine::Engine::new(config_json)).map_err(raise)?;
        Ok(Self { inner })
    }

    fn create_volume(&self, py: Python<'_>, spec_json: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.create_volume(spec_json))
    }

    fn open_volume(&self, py: Python<'_>, spec_json: &str) -> PyResult<String> {
        self.run(py, |engine| engine.open_volume(spec_json))
    }

    fn settle_volume(&self, py: Python<'_>, uuid: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.settle_volume(uuid))
    }

    #[pyo3(signature = (uuid, moved_to = None, /))]
    fn close_volume(&self, py: Python<'_>, uuid: &str, moved_to: Option<&str>) -> PyResult<bool> {
        self.run(py, |engine| engine.close_volume(uuid, moved_to))
    }

    fn delete_volume(&self, py: Python<'_>, uuid: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.delete_volume(uuid))
    }

    fn resize_volume(&self, py: Python<'_>, uuid: &str, size: u64) -> PyResult<()> {
        self.perform(py, |engine| engine.resize_volume(uuid, size))
    }

    fn create_snapshot(&self, py: Python<'_>, uuid: &str, snapshot_uuid: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.create_snapshot(uuid, snapshot_uuid))
    }

    fn delete_snapshot(&self, py: Python<'_>, uuid: &str, snapshot_uuid: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.delete_snapshot(uuid, snapshot_uuid))
    }

    fn revert_volume(&self, py: Python<'_>, uuid: &str, snapshot_uuid: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.revert_volume(uuid, snapshot_uuid))
    }

    #[pyo3(signature = (uuid, from_uuid, to_uuid))]
    fn diff_snapshots(
        &self,
        py: Python<'_>,
        uuid: &str,
        from_uuid: Option<&str>,
        to_uuid: Option<&str>,
    ) -> PyResult<String> {
        self.run(py, |engine| engine.diff_snapshots(uuid, from_uuid, to_uuid))
    }

    fn snapshot_group(&self, py: Python<'_>, members_json: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.snapshot_group(members_json))
    }

    fn set_qos(&self, py: Python<'_>, uuid: &str, qos_json: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.set_qos(uuid, qos_json))
    }

    fn export_nbd(&self, py: Python<'_>, uuid: &str, name: &str) -> PyResult<String> {
        self.run(py, |engine| engine.export_nbd(uuid, name))
    }

    fn unexport_nbd(&self, py: Python<'_>, uuid: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.unexport_nbd(uuid))
    }

    fn shut_out(&self, py: Python<'_>, uuid: &str, generation: u64) -> PyResult<()> {
        self.perform(py, |engine| engine.shut_out(uuid, generation))
    }

    #[staticmethod]
    fn describe_preset(preset_json: &str) -> PyResult<String> {
        alba::preset::describe_json(preset_json).map_err(refuse_preset)
    }

    #[staticmethod]
    fn judge_preset(preset_json: &str, cluster_json: &str) -> PyResult<String> {
        alba::preset::judge_json(preset_json, cluster_json).map_err(refuse_preset)
    }

    #[staticmethod]
    fn shipped_presets() -> &'static str {
        alba::preset::shipped_json()
    }

    fn set_dtl(&self, py: Python<'_>, uuid: &str, dtl_json: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.set_dtl(uuid, dtl_json))
    }

    fn set_followers(&self, py: Python<'_>, uuid: &str, spec_json: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.set_followers(uuid, spec_json))
    }

    fn retain_followed(&self, py: Python<'_>, uuids_json: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.retain_followed(uuids_json))
    }

    fn next_event(&self, py: Python<'_>, timeout_s: f64) -> PyResult<Option<String>> {
        self.run(py, |engine| Ok(engine.next_event(timeout_s)))
    }

    fn event_stands(&self, py: Python<'_>, id: u64) -> PyResult<bool> {
        self.run(py, |engine| Ok(engine.event_stands(id)))
    }

    fn answer_event(&self, py: Python<'_>, id: u64, accepted: bool) -> PyResult<()> {
        self.perform(py, |engine| {
            engine.answer_event(id, accepted);
            Ok(())
        })
    }

    fn fetch_tail(&self, py: Python<'_>, request_json: &str) -> PyResult<String> {
        self.run(py, |engine| engine.fetch_tail(request_json))
    }

    fn drop_tail(&self, py: Python<'_>, request_json: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.drop_tail(request_json))
    }

    fn clear_buffer(&self, py: Python<'_>, uuid: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.clear_buffer(uuid))
    }

    fn extend_lease(&self, py: Python<'_>, end_ns: u64, term: u64) -> PyResult<()> {
        self.perform(py, |engine| {
            engine.extend_lease(end_ns, term);
            Ok(())
        })
    }

    fn osd_roll(&self, py: Python<'_>, address: &str) -> PyResult<String> {
        self.run(py, |engine| engine.osd_roll(address))
    }

    fn osd_states(&self, py: Python<'_>) -> PyResult<String> {
        self.run(py, engine::Engine::osd_states)
    }

    fn osd_releases(&self, py: Python<'_>) -> PyResult<String> {
        self.run(py, engine::Engine::osd_releases)
    }

    fn set_osds(&self, py: Python<'_>, osds_json: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.set_osds(osds_json))
    }

    fn set_caches(&self, py: Python<'_>, osds_json: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.set_caches(osds_json))
    }

    fn set_upkeep(&self, py: Python<'_>, orders_json: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.set_upkeep(orders_json))
    }

    fn start_upkeep(&self, py: Python<'_>, kind: &str) -> PyResult<()> {
        self.perform(py, |engine| engine.start_upkeep(kind))
    }

    fn upkeep(&self, py: Python<'_>) -> PyResult<String> {
        self.run(py, |engine| Ok(engine.upkeep()))
    }

    fn status(&self, py: Python<'_>) -> PyResult<String> {
        self.run(py, engine::Engine::status)
    }

    fn shutdown(&self, py: Python<'_>, drain: bool) -> PyResult<()> {
        self.perform(py, |engine| engine.shutdown(drain))
    }
}
