//! The specification by example: each folder of `cases/` is one situation, named as a user would name it.
//!
//! `intent.yaml` holds resources, `view-CLUSTER.yaml` what an edge sees, `reports.yaml` what other clusters report and
//! which have joined, `proxies.yaml` the proxies to look at, `requests.yaml` requests to explain. A cluster with a view reports that view. What comes out is
//! compared with `expected/`; `UPDATE_EXPECT=1` rewrites it.
#![allow(clippy::unwrap_used)]
#![allow(
    clippy::disallowed_methods,
    reason = "the cases are files; the compiler itself reads none"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tombolo_compiler::explain::request::Request;
use tombolo_compiler::explain::{Viewpoint, explain};
use tombolo_compiler::finding::Finding;
use tombolo_compiler::intent::{Intent, Resource};
use tombolo_compiler::lower::lower;
use tombolo_compiler::name::{ClusterName, Label, WorkloadId};
use tombolo_compiler::plan::plan;
use tombolo_compiler::proxy::{ProxyNode, ProxyRole};
use tombolo_compiler::report::{ClusterReport, Reports};
use tombolo_compiler::resolve::resolve;
use tombolo_compiler::routes::Slice;
use tombolo_compiler::view::View;

mod render;

#[test]
fn every_situation_is_as_expected() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&cases)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    assert!(folders.len() >= 20, "only {} cases in {cases:?}", folders.len());
    let failed: Vec<String> = folders.iter().filter_map(|folder| check(folder).err()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn check(folder: &Path) -> Result<(), String> {
    let found = outcome(folder);
    let expected = folder.join("expected");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        if expected.exists() {
            std::fs::remove_dir_all(&expected).unwrap();
        }
        std::fs::create_dir_all(&expected).unwrap();
        for (file, text) in found {
            std::fs::write(expected.join(file), text).unwrap();
        }
        return Ok(());
    }
    let there: BTreeMap<String, String> = std::fs::read_dir(&expected)
        .map_err(|error| format!("{}: {error}; run with UPDATE_EXPECT=1", expected.display()))?
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    let files: BTreeSet<&String> = there.keys().chain(found.keys()).collect();
    let different: Vec<String> = files
        .into_iter()
        .filter(|file| there.get(*file) != found.get(*file))
        .map(|file| difference(folder, file, there.get(file), found.get(file)))
        .collect();
    if different.is_empty() {
        Ok(())
    } else {
        Err(different.join("\n"))
    }
}

fn difference(folder: &Path, file: &str, expected: Option<&String>, found: Option<&String>) -> String {
    let lines = |text: Option<&String>| -> Vec<String> {
        text.map_or_else(Vec::new, |text| text.lines().map(str::to_owned).collect())
    };
    let (expected, found) = (lines(expected), lines(found));
    let same = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
    let show = |lines: &[String], sign: &str| -> String {
        let from = same.min(lines.len());
        let lines = lines[from..].iter().take(8);
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    format!(
        "{}/expected/{file} differs from line {} (UPDATE_EXPECT=1 accepts):\n{}{}",
        folder.file_name().unwrap().to_string_lossy(),
        same + 1,
        show(&expected, "-"),
        show(&found, "+"),
    )
}

/// Everything that the passes make of a case, by file.
fn outcome(folder: &Path) -> BTreeMap<String, String> {
    let case = Case::read(folder);
    let mut files = BTreeMap::new();
    let (resolved, errors) = resolve(&case.intent);
    let (plans, found) = plan(&resolved, &case.reports);
    let mut findings: BTreeMap<String, Vec<Finding>> = BTreeMap::new();
    findings.insert("resolve".to_owned(), errors);
    findings.insert("plan".to_owned(), found);
    for (cluster, slice) in &plans {
        files.insert(format!("slice-{cluster}.yaml"), yaml(&slice_value(slice)));
    }
    for proxy in &case.proxies {
        let empty = Slice::default();
        let slice = plans.get(&proxy.cluster).unwrap_or(&empty);
        let (config, found) = lower(&proxy.cluster, slice, &case.views[&proxy.cluster], &proxy.node());
        let (cluster, id) = (&proxy.cluster, &proxy.id);
        findings.insert(format!("lower {cluster} {id}"), found);
        files.insert(
            format!("proxy-{cluster}-{id}.yaml"),
            yaml(&render::config(&config)),
        );
    }
    if !case.requests.is_empty() {
        let taken = &findings["resolve"];
        let explained: Vec<Value> = case
            .requests
            .iter()
            .map(|asked| {
                let explanation = explain(
                    &resolved,
                    &case.reports,
                    taken,
                    &asked.from,
                    &asked.request,
                    &|_| true,
                );
                json!({"asked": format!("{} {}", asked.from, asked.request), "explained": explanation})
            })
            .collect();
        files.insert("explained.yaml".to_owned(), yaml(&explained));
    }
    findings.retain(|_, found| !found.is_empty());
    files.insert("findings.yaml".to_owned(), yaml(&findings));
    files
}

struct Case {
    intent: Intent,
    reports: Reports,
    views: BTreeMap<ClusterName, View>,
    proxies: Vec<Proxy>,
    requests: Vec<Asked>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    from: Viewpoint,
    request: Request,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportsFile {
    #[serde(default)]
    clusters: BTreeMap<ClusterName, ClusterReport>,
    /// Those that report have joined anyway.
    #[serde(default)]
    joined: BTreeSet<ClusterName>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Proxy {
    cluster: ClusterName,
    id: String,
    #[serde(default)]
    sidecar_in: Option<Label>,
    #[serde(default)]
    gateway: Option<WorkloadId>,
}

impl Proxy {
    fn node(&self) -> ProxyNode {
        let role = match (&self.sidecar_in, &self.gateway) {
            (Some(namespace), None) => ProxyRole::Sidecar {
                namespace: namespace.clone(),
                outbound: "127.0.0.1:15001".parse().unwrap(),
            },
            (None, Some(workload)) => ProxyRole::Gateway {
                workload: workload.clone(),
            },
            _ => panic!("{} is either sidecar_in or gateway", self.id),
        };
        ProxyNode {
            id: self.id.clone(),
            role,
        }
    }
}

impl Case {
    fn read(folder: &Path) -> Case {
        let documents: Vec<Resource> = match std::fs::read_to_string(folder.join("intent.yaml")) {
            Ok(text) => serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{folder:?}: {e}")),
            Err(error) => panic!("{folder:?}: {error}"),
        };
        let intent = documents
            .into_iter()
            .map(|resource| (resource.name.clone(), Arc::new(resource)))
            .collect();
        let file: ReportsFile = optional(&folder.join("reports.yaml"));
        let views: BTreeMap<ClusterName, View> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| {
                let name = entry.unwrap().file_name().to_string_lossy().into_owned();
                let cluster = name
                    .strip_prefix("view-")?
                    .strip_suffix(".yaml")?
                    .parse()
                    .unwrap();
                Some((cluster, optional(&folder.join(&name))))
            })
            .collect();
        let mut clusters: BTreeMap<ClusterName, Arc<ClusterReport>> = views
            .iter()
            .map(|(cluster, view)| (cluster.clone(), Arc::new(view.report())))
            .collect();
        clusters.extend(
            file.clusters
                .into_iter()
                .map(|(cluster, report)| (cluster, Arc::new(report))),
        );
        let joined = file.joined.into_iter().chain(clusters.keys().cloned()).collect();
        Case {
            intent,
            reports: Reports {
                joined,
                clusters,
                ..Reports::default()
            },
            views,
            proxies: optional(&folder.join("proxies.yaml")),
            requests: optional(&folder.join("requests.yaml")),
        }
    }
}

fn optional<T: Default + serde::de::DeserializeOwned>(path: &Path) -> T {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}")),
        Err(_) => T::default(),
    }
}

fn slice_value(slice: &Slice) -> Value {
    let items: BTreeMap<String, Value> = slice
        .items
        .iter()
        .map(|(key, item)| (key.to_string(), serde_json::to_value(item).unwrap()))
        .collect();
    json!({"complete": slice.complete, "items": items})
}

fn yaml(value: &impl Serialize) -> String {
    let mut options = serde_saphyr::SerializerOptions::default();
    options.prefer_block_scalars = false;
    serde_saphyr::to_string_with_options(value, options).unwrap()
}
