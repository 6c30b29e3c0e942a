//! Reads the folder that is the truth: every YAML and JSON file in it and in the folders below.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tombolo_compiler::intent::Resource;
use tombolo_compiler::name::Fqn;

use super::drift;
use crate::documents;

/// More than a tree of a hundred thousand resources; a mistake such as `/` is noticed before the memory is full.
const BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Of folders in folders.
const DEPTH_MAX: usize = 16;

/// # Errors
/// When a file cannot be read, holds something else than resources at or below the node, or holds one that another file
/// has as well.
pub(crate) fn read(folder: &Path, node: &Fqn) -> anyhow::Result<BTreeMap<Fqn, Resource>> {
    let mut files = Vec::new();
    walk(folder, 0, &mut files)?;
    files.sort();
    let mut read: BTreeMap<Fqn, (Resource, String)> = BTreeMap::new();
    let mut bytes = 0;
    for file in files {
        let source = file.display().to_string();
        let text = fs::read_to_string(&file).with_context(|| format!("read {source}"))?;
        bytes += text.len() as u64;
        if bytes > BYTES_MAX {
            bail!(
                "{} holds more than {BYTES_MAX} bytes of documents: is it the right folder?",
                folder.display()
            );
        }
        for document in documents::values(&source, &text)? {
            let resource = drift::resource(document).with_context(|| source.clone())?;
            let name = resource.name.clone();
            if !name.is_within(node) {
                bail!("{source}: {name} is not at or below {node}; a folder is the truth for one node");
            }
            if let Some((_, first)) = read.insert(name.clone(), (resource, source.clone())) {
                bail!("{name} is in {first} and again in {source}: keep one of them");
            }
        }
    }
    Ok(read
        .into_iter()
        .map(|(name, (resource, _))| (name, resource))
        .collect())
}

/// Hidden files and folders, such as `.git`, are not part of it.
fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if depth > DEPTH_MAX {
        bail!(
            "{} is more than {DEPTH_MAX} folders deep: does a link lead back?",
            folder.display()
        );
    }
    let list = || format!("list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(list)? {
        let entry = entry.with_context(list)?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            walk(&path, depth + 1, files)?;
        } else if documents::is_document(&path) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PAY: &str = "organizations/acme/tenants/pay";

    #[test]
    fn folders_below_are_read_and_hidden_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("pay.yaml", &format!("name: {PAY}\netag: old\nuid: x\n"));
        write(
            "shop/groups.yaml",
            &format!("name: {PAY}/workspaces/a\nspec: {{namespaces: []}}\n---\n"),
        );
        write(".git/x.yaml", "not: ours");
        write("notes.txt", "not: ours");
        let node = PAY.parse().unwrap();
        let names: Vec<String> = read(folder.path(), &node)
            .unwrap()
            .keys()
            .map(Fqn::to_string)
            .collect();
        assert_eq!(names, [PAY.to_owned(), format!("{PAY}/workspaces/a")]);

        for (text, reason) in [
            (
                "name: organizations/acme/tenants/media\n".to_owned(),
                "is not at or below",
            ),
            (format!("name: {PAY}\n"), "and again in"),
            ("name: nonsense\n".to_owned(), "z.yaml"),
            (
                format!("name: {PAY}/workspaces/b\nspec: {{color: red}}\n"),
                "z.yaml",
            ),
        ] {
            write("z.yaml", &text);
            let error = format!("{:#}", read(folder.path(), &node).unwrap_err());
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
