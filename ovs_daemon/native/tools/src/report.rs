//! What was found in a file.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// Facts and damages of one file.
pub(crate) struct Report {
    path: PathBuf,
    pub(crate) kind: &'static str,
    facts: Map<String, Value>,
    /// Lines of the dump, in the file's order.
    pub(crate) lines: Vec<String>,
    /// Byte offset and what is wrong there.
    pub(crate) damages: Vec<(u64, String)>,
}

impl Report {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            kind: "unknown",
            facts: Map::new(),
            lines: Vec::new(),
            damages: Vec::new(),
        }
    }

    pub(crate) fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    pub(crate) fn damage(&mut self, offset: u64, why: impl Into<String>) {
        self.damages.push((offset, why.into()));
    }

    pub(crate) fn print(&self, as_json: bool, brief: bool) {
        let verdict = if self.damages.is_empty() { "sound" } else { "DAMAGED" };
        if as_json {
            let damages: Vec<Value> = self
                .damages
                .iter()
                .map(|(offset, why)| json!({"offset": offset, "why": why}))
                .collect();
            let mut document = json!({
                "path": self.path, "kind": self.kind, "verdict": verdict, "facts": self.facts,
                "damages": damages,
            });
            if !brief {
                document["lines"] = json!(self.lines);
            }
            println!("{document}");
            return;
        }
        println!("{}: {}, {verdict}", self.path.display(), self.kind);
        for (name, value) in &self.facts {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            println!("  {name:<22} {text}");
        }
        if !brief {
            for line in &self.lines {
                println!("  {line}");
            }
        }
        for (offset, why) in &self.damages {
            println!("  at byte {offset}: {why}");
        }
    }
}

/// A UUID in its usual form.
pub(crate) fn uuid(id: &[u8; 16]) -> String {
    let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// One log entry in words.
pub(crate) fn entry(entry: &format::entry::Entry) -> String {
    use format::entry::Entry;
    match entry {
        Entry::Data { lba, clusters } => format!("data    lba {lba} + {clusters}"),
        Entry::Trim { lba, clusters } => format!("trim    lba {lba} + {clusters}"),
        Entry::SnapshotCreated(id) => format!("snapshot {} created", uuid(id)),
        Entry::SnapshotDeleted(id) => format!("snapshot {} deleted", uuid(id)),
        Entry::Reverted(id) => format!("reverted to snapshot {}", uuid(id)),
        Entry::Closed => "closed".to_owned(),
    }
}
