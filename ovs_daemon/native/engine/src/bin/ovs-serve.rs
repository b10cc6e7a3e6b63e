//! Serves one volume over NBD without any Python: for benchmarks and tests.
//!
//! `ovs-serve --dir DIR --size BYTES --socket PATH [--tcp ADDRESS:PORT] [--sco-size BYTES]
//! [--buffer-size BYTES] [--reserve BYTES]`
//!
//! DIR/run/engine.sock takes Edges; the volume's UUID is 00000000-0000-0000-0000-000000000001. The
//! volume is created when DIR is empty, else opened. Runs until it is killed.
#![allow(clippy::disallowed_methods)]

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;

use serde_json::{Value, json};

const UUID: &str = "00000000-0000-0000-0000-000000000001";

fn main() -> Result<(), Box<dyn Error>> {
    let mut options: HashMap<String, String> = HashMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(key) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{key} wants a value"))?;
        options.insert(key, value);
    }
    let get = |key: &str| options.get(key).map(String::as_str);
    let dir = Path::new(get("--dir").ok_or("--dir is missing")?);
    let socket = get("--socket").ok_or("--socket is missing")?;
    let size: u64 = get("--size").ok_or("--size is missing")?.parse()?;
    let mut config = json!({
        "buffer_dir": dir.join("buffer"),
        "backend_dir": dir.join("backend"),
        "run_dir": dir.join("run"),
        "nbd_tcp": get("--tcp"),
        "reserve": 64 << 20,
    });
    for (option, key) in
        [("--sco-size", "sco_size"), ("--buffer-size", "buffer_size"), ("--reserve", "reserve")]
    {
        if let Some(value) = get(option) {
            config[key] = Value::from(value.parse::<u64>()?);
        }
    }
    let epoch_file = dir.join("epoch");
    let epoch = match std::fs::read_to_string(&epoch_file) {
        Ok(text) => text.trim().parse::<u64>()? + 1,
        Err(_) => 1,
    };
    std::fs::create_dir_all(dir)?;
    std::fs::write(&epoch_file, epoch.to_string())?;
    let engine = engine::Engine::new(&config.to_string())?;
    let spec = json!({"uuid": UUID, "size": size, "epoch": epoch});
    engine.create_volume(&spec.to_string())?;
    let opened = engine.open_volume(&spec.to_string())?;
    let path = engine.export_nbd(UUID, "volume")?;
    let _ = std::fs::remove_file(socket);
    std::os::unix::fs::symlink(&path, socket)?;
    println!("serving {UUID} on {socket}: {opened}");
    loop {
        std::thread::park();
    }
}
