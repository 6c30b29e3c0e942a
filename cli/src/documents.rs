//! Reads the documents of `-f`: a file, a folder of files, or standard input; YAML or JSON, one or many in each.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

/// The same as the server's, so that a mistake (`-f /`) is noticed before anything is sent.
const BYTES_MAX: usize = 1024 * 1024;
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// The documents, and where each comes from.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    values: Vec<Value>,
    sources: Vec<String>,
    bytes: usize,
}

/// # Errors
/// When a file cannot be read or is not YAML, or there is nothing in any of them.
pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Documents> {
    let mut documents = Documents::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            let limit = BYTES_MAX as u64 + 1;
            std::io::stdin()
                .lock()
                .take(limit)
                .read_to_string(&mut text)
                .context("read standard input")?;
            documents.add("standard input", &text)?;
        } else if path.is_dir() {
            for file in files_of(path)? {
                documents.add_file(&file)?;
            }
        } else {
            documents.add_file(path)?;
        }
    }
    if documents.values.is_empty() {
        bail!("there are no documents to apply: check -f");
    }
    Ok(documents)
}

impl Documents {
    /// The body of a request that applies them all, and the sources of those that its errors name by their number.
    pub(crate) fn into_body(mut self) -> (Value, Vec<String>) {
        if self.values.len() == 1 {
            return (self.values.remove(0), Vec::new());
        }
        (Value::Array(self.values), self.sources)
    }

    fn add_file(&mut self, path: &Path) -> anyhow::Result<()> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        self.add(&path.display().to_string(), &text)
    }

    fn add(&mut self, source: &str, text: &str) -> anyhow::Result<()> {
        self.bytes += text.len();
        if self.bytes > BYTES_MAX {
            bail!("more than {BYTES_MAX} bytes of documents: apply them in several steps");
        }
        let values = values(source, text)?;
        let count = values.len();
        for (index, value) in values.into_iter().enumerate() {
            self.values.push(value);
            self.sources.push(if count == 1 {
                source.to_owned()
            } else {
                format!("{source} document {}", index + 1)
            });
        }
        Ok(())
    }
}

/// The documents of one file.
pub(crate) fn values(source: &str, text: &str) -> anyhow::Result<Vec<Value>> {
    let values: Vec<Value> =
        serde_saphyr::from_multiple(text).with_context(|| format!("read {source} as YAML"))?;
    Ok(values.into_iter().flat_map(flat).collect())
}

/// By its name.
pub(crate) fn is_document(file: &Path) -> bool {
    let extension = file.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
}

/// A list is as many documents; an empty document is none.
fn flat(value: Value) -> Vec<Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(values) => values,
        value => vec![value],
    }
}

/// In the order of their names; not of folders below.
fn files_of(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let list = || format!("list {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(list)? {
        let path = entry.with_context(list)?.path();
        if path.is_file() && is_document(&path) {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("{} holds no .yaml, .yml or .json file", folder.display());
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_in_order_and_sources_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("b.yaml"), "name: b1\n---\n---\nname: b2\n").unwrap();
        fs::write(path("a.json"), r#"{"name": "a"}"#).unwrap();
        fs::write(path("notes.txt"), "not: mine").unwrap();
        let documents = read(&[folder.path().to_owned()]).unwrap();
        let names: Vec<_> = documents
            .values
            .iter()
            .map(|value| value["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["a", "b1", "b2"]);
        let root = folder.path().display();
        assert_eq!(
            documents.sources,
            [
                format!("{root}/a.json"),
                format!("{root}/b.yaml document 1"),
                format!("{root}/b.yaml document 2")
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.yaml");
        for (text, expected) in [
            ("a: [", "as YAML"),
            ("", "no documents"),
            ("---\n", "no documents"),
        ] {
            fs::write(&file, text).unwrap();
            let error = read(std::slice::from_ref(&file)).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        fs::write(&file, "a: ".to_owned() + &"x".repeat(BYTES_MAX)).unwrap();
        assert!(
            read(&[file])
                .unwrap_err()
                .to_string()
                .contains("in several steps")
        );
        let empty = tempfile::tempdir().unwrap();
        let error = read(&[empty.path().to_owned()]).unwrap_err().to_string();
        assert!(error.contains("holds no .yaml"), "{error}");
        assert!(
            read(&["/nowhere.yaml".into()])
                .unwrap_err()
                .to_string()
                .contains("/nowhere.yaml")
        );
    }
}
