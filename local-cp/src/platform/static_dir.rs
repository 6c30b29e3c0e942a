//! The platform `static`: a folder of YAML files that list services and gateways, for clusters without Kubernetes.
//!
//! It is polled: a folder of a few files costs nothing to look at, and polling works on every file system. A change is
//! read when two looks in a row see the same, so that a file is not read while it is being written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tombolo_compiler::name::{HostPort, Label, ServiceId};
use tombolo_compiler::report::State;
use tombolo_compiler::view::{Instance, LocalGateway, LocalPort, LocalService, View};
use tombolo_runtime::shutdown::Shutdown;

use super::{Fault, Listing, Platform, Seen};

/// A change is seen within two of these.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Far above any list of services that a person keeps in a file.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct StaticDir {
    dir: PathBuf,
    /// What the last look saw; `None` before the first.
    listed: Option<BTreeMap<String, Stamp>>,
    files: BTreeMap<String, File>,
}

/// Changes whenever a file does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
}

#[derive(Debug)]
struct File {
    stamp: Stamp,
    /// The last content that could be read.
    good: Option<Document>,
    /// Why the present content cannot.
    bad: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    services: Vec<ServiceEntry>,
    #[serde(default)]
    gateways: Vec<GatewayEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceEntry {
    namespace: Label,
    name: Label,
    ports: Vec<LocalPort>,
    #[serde(default)]
    instances: Vec<Instance>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct GatewayEntry {
    namespace: Label,
    name: Label,
    bind: IpAddr,
    #[serde(default)]
    east_west_port: Option<u16>,
    #[serde(default)]
    east_west_addresses: Vec<HostPort>,
    #[serde(default)]
    state: State,
}

impl Platform for StaticDir {
    fn run(
        self: Box<Self>,
        seen: watch::Sender<Seen>,
        mut shutdown: Shutdown,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut dir = *self;
        Box::pin(async move {
            while !shutdown.is_fired() {
                let looked = spawn_blocking(move || {
                    let looked = dir.look();
                    (dir, looked)
                });
                let Ok((back, looked)) = looked.await else { return };
                dir = back;
                let now = match looked {
                    Ok(Some(now)) => now,
                    Ok(None) => seen.borrow().clone(),
                    Err(fault) => Seen {
                        listing: seen.borrow().listing.clone(),
                        faults: vec![fault],
                    },
                };
                tell(&seen, now);
                tokio::select! {
                    () = sleep(POLL_INTERVAL) => {}
                    () = shutdown.wait() => {}
                }
            }
        })
    }
}

impl StaticDir {
    pub(crate) fn new(dir: &Path) -> StaticDir {
        StaticDir {
            dir: dir.to_owned(),
            listed: None,
            files: BTreeMap::new(),
        }
    }

    /// Looks once. `None` before there were two looks.
    fn look(&mut self) -> Result<Option<Seen>, Fault> {
        let listed = list(&self.dir).map_err(|error| Fault {
            place: self.dir.display().to_string(),
            reason: format!("cannot list the folder: {error}; all that was read from it stays in use"),
        })?;
        let Some(before) = self.listed.replace(listed.clone()) else {
            return Ok(None);
        };
        let names: BTreeSet<String> = self.files.keys().chain(listed.keys()).cloned().collect();
        for name in names {
            let stamp = listed.get(&name);
            let known = self.files.get(&name).map(|file| &file.stamp);
            if known == stamp || before.get(&name) != stamp {
                continue;
            }
            match stamp {
                None => drop(self.files.remove(&name)),
                Some(stamp) => self.read(&name, stamp.clone()),
            }
        }
        if listed.is_empty() && before.is_empty() {
            return Ok(Some(self.bare()));
        }
        Ok(Some(merge(&self.files, listed.keys())))
    }

    fn bare(&self) -> Seen {
        Seen {
            listing: Listing::Bare,
            faults: vec![Fault {
                place: self.dir.display().to_string(),
                reason: "the folder holds no YAML file; all that was read from it stays in use. If the cluster has \
                         nothing, say so in a file: `services: []`"
                    .to_owned(),
            }],
        }
    }

    fn read(&mut self, name: &str, stamp: Stamp) {
        let read = if stamp.bytes > FILE_BYTES_MAX {
            Err(format!(
                "it has {} bytes and may have {FILE_BYTES_MAX}",
                stamp.bytes
            ))
        } else {
            let text = fs::read_to_string(self.dir.join(name)).map_err(|error| error.to_string());
            text.and_then(|text| parse(&text))
        };
        let before = self.files.remove(name).and_then(|file| file.good);
        let (good, bad) = match read {
            Ok(document) => (Some(document), None),
            Err(reason) => (before, Some(reason)),
        };
        self.files.insert(name.to_owned(), File { stamp, good, bad });
    }
}

fn tell(seen: &watch::Sender<Seen>, now: Seen) {
    seen.send_if_modified(|before| {
        if *before == now {
            return false;
        }
        for fault in now.faults.iter().filter(|fault| !before.faults.contains(fault)) {
            tracing::warn!(
                place = fault.place,
                reason = fault.reason,
                "part of the platform cannot be used"
            );
        }
        *before = now;
        true
    });
}

/// YAML and JSON files that are not hidden.
fn list(dir: &Path) -> io::Result<BTreeMap<String, Stamp>> {
    let mut listed = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        let extension = Path::new(&name)
            .extension()
            .and_then(|extension| extension.to_str());
        if name.starts_with('.') || !matches!(extension, Some("yaml" | "yml" | "json")) {
            continue;
        }
        // Follows links, as Kubernetes mounts configuration; a file that has just gone is not there.
        match fs::metadata(dir.join(&name)) {
            Ok(metadata) if metadata.is_file() => {
                let stamp = Stamp {
                    modified: metadata.modified().ok(),
                    bytes: metadata.len(),
                };
                listed.insert(name, stamp);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listed)
}

fn parse(text: &str) -> Result<Document, String> {
    // A file of comments only lists nothing.
    let document: Option<Document> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    Ok(document.unwrap_or_default())
}

/// All files together; of two that list the same name, the first by file name counts.
fn merge<'a>(files: &BTreeMap<String, File>, listed: impl Iterator<Item = &'a String>) -> Seen {
    let mut view = View::default();
    let mut owners: BTreeMap<(&str, ServiceId), &str> = BTreeMap::new();
    let mut faults = Vec::new();
    for (file, content) in files {
        if let Some(reason) = &content.bad {
            let kept = if content.good.is_some() {
                "; its last good content stays in use"
            } else {
                "; nothing is withdrawn until it can be read"
            };
            faults.push(Fault {
                place: file.clone(),
                reason: format!("{reason}{kept}"),
            });
        }
        let Some(document) = &content.good else { continue };
        let mut claim = |what: &'static str, id: &ServiceId| match owners.get(&(what, id.clone())) {
            Some(owner) => {
                faults.push(Fault {
                    place: file.clone(),
                    reason: format!(
                        "{what} {id} is already listed in {owner}, which counts; remove one of the two"
                    ),
                });
                false
            }
            None => {
                owners.insert((what, id.clone()), file);
                true
            }
        };
        for entry in &document.services {
            let id = ServiceId {
                namespace: entry.namespace.clone(),
                name: entry.name.clone(),
            };
            if claim("service", &id) {
                view.services.insert(id, entry.service());
            }
        }
        for entry in &document.gateways {
            let id = ServiceId {
                namespace: entry.namespace.clone(),
                name: entry.name.clone(),
            };
            if claim("gateway", &id) {
                view.gateways.insert(id, entry.gateway());
            }
        }
    }
    let mut listed = listed;
    let whole = listed.all(|name| files.get(name).is_some_and(|file| file.good.is_some()));
    let view = Arc::new(view);
    Seen {
        listing: if whole {
            Listing::Whole(view)
        } else {
            Listing::Partial(view)
        },
        faults,
    }
}

impl ServiceEntry {
    fn service(&self) -> LocalService {
        LocalService {
            ports: self.ports.clone(),
            instances: self.instances.clone(),
        }
    }
}

impl GatewayEntry {
    fn gateway(&self) -> LocalGateway {
        LocalGateway {
            bind: self.bind,
            east_west_port: self.east_west_port,
            east_west_addresses: self.east_west_addresses.clone(),
            state: self.state,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tombolo_compiler::report::Protocol;
    use tombolo_compiler::view::HealthCheck;

    use super::*;

    const SHOP: &str = "
services:
- namespace: shop
  name: reviews
  ports: [{name: http, port: 8080, protocol: http, health: {http: {path: /healthz}}}]
  instances:
  - {address: 127.0.1.10, ports: {http: 9001}, labels: {version: v1}}
  - {address: 127.0.1.10, ports: {http: 9002}, labels: {version: v2}, state: down}
";
    const GATEWAY: &str =
        "gateways:\n- {namespace: mesh, name: gateway, bind: 127.0.1.1, eastWestPort: 15443}\n";

    struct Folder {
        dir: tempfile::TempDir,
        platform: StaticDir,
        writes: u64,
    }

    impl Folder {
        fn new() -> Folder {
            let dir = tempfile::tempdir().unwrap();
            let platform = StaticDir::new(dir.path());
            Folder {
                dir,
                platform,
                writes: 0,
            }
        }

        /// With a modification time of its own, since two writes may share one.
        fn write(&mut self, name: &str, text: &str) {
            self.writes += 1;
            let path = self.dir.path().join(name);
            fs::write(&path, text).unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + self.writes);
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_modified(at)
                .unwrap();
        }

        fn settled(&mut self) -> Seen {
            self.platform.look().unwrap();
            self.platform.look().unwrap().unwrap()
        }
    }

    fn whole(seen: &Seen) -> &View {
        match &seen.listing {
            Listing::Whole(view) => view,
            other => panic!("not whole: {other:?}"),
        }
    }

    #[test]
    fn files_are_merged_into_a_view() {
        let mut folder = Folder::new();
        folder.write("a.yaml", SHOP);
        folder.write("b.yml", GATEWAY);
        folder.write("empty.yaml", "# nothing yet\n");
        folder.write(".hidden.yaml", "{");
        folder.write("notes.txt", "{");
        let seen = folder.settled();
        assert_eq!(seen.faults, []);
        let view = whole(&seen);
        let reviews = &view.services[&"shop/reviews".parse().unwrap()];
        assert_eq!(reviews.ports[0].protocol, Protocol::Http);
        assert!(
            matches!(&reviews.ports[0].health, HealthCheck::Http { path } if path.as_str() == "/healthz")
        );
        assert_eq!(reviews.instances[1].state, State::Down);
        assert_eq!(
            view.gateways[&"mesh/gateway".parse().unwrap()].east_west_port,
            Some(15443)
        );
    }

    #[test]
    fn a_file_is_read_when_it_has_settled() {
        let mut folder = Folder::new();
        folder.settled();
        folder.write("a.yaml", SHOP);
        let first = folder.platform.look().unwrap().unwrap();
        assert_eq!(
            first.listing,
            Listing::Partial(Arc::default()),
            "a file is there and was not read"
        );
        folder.write("a.yaml", GATEWAY);
        assert_eq!(
            folder.platform.look().unwrap().unwrap(),
            first,
            "still being written"
        );
        let seen = folder.platform.look().unwrap().unwrap();
        assert!(whole(&seen).services.is_empty() && whole(&seen).gateways.len() == 1);
    }

    #[test]
    fn invariant_5_a_file_that_does_not_parse_keeps_its_last_good_content() {
        for (bad, reason) in [
            ("services: [", "a.yaml: "),
            (
                "services:\n- {namespace: shop, name: reviews, ports: [], colour: red}",
                "colour",
            ),
            (
                "services:\n- {namespace: Shop, name: reviews, ports: []}",
                "is not a valid name",
            ),
            ("servces: []", "servces"),
            (
                "gateways:\n- {namespace: mesh, name: gateway, bind: here}",
                "a.yaml: ",
            ),
        ] {
            let mut folder = Folder::new();
            folder.write("a.yaml", SHOP);
            folder.write("b.yaml", GATEWAY);
            let before = whole(&folder.settled()).clone();
            folder.write("a.yaml", bad);
            let seen = folder.settled();
            assert_eq!(*whole(&seen), before, "{bad}");
            let fault = seen.faults[0].to_string();
            assert!(
                fault.contains(reason) && fault.ends_with("its last good content stays in use"),
                "{fault}"
            );
            folder.write("a.yaml", SHOP);
            assert_eq!(folder.settled().faults, []);
        }
    }

    #[test]
    fn a_file_that_never_parsed_makes_the_listing_partial() {
        let mut folder = Folder::new();
        folder.write("a.yaml", "services: [");
        folder.write("b.yaml", GATEWAY);
        let seen = folder.settled();
        assert!(matches!(&seen.listing, Listing::Partial(view) if view.gateways.len() == 1));
        assert!(
            seen.faults[0]
                .reason
                .ends_with("nothing is withdrawn until it can be read")
        );
    }

    #[test]
    fn of_two_entries_the_first_by_file_name_counts_and_the_other_is_reported() {
        let mut folder = Folder::new();
        folder.write("b.yaml", GATEWAY);
        folder.write("a.yaml", &GATEWAY.replace("127.0.1.1", "127.0.9.9"));
        let seen = folder.settled();
        let gateway = &whole(&seen).gateways[&"mesh/gateway".parse().unwrap()];
        assert_eq!(gateway.bind.to_string(), "127.0.9.9");
        assert_eq!(
            seen.faults[0].to_string(),
            "b.yaml: gateway mesh/gateway is already listed in a.yaml, which counts; remove one of the two"
        );
    }

    #[test]
    fn a_file_that_is_deleted_is_withdrawn_and_a_folder_that_is_gone_is_not() {
        let mut folder = Folder::new();
        folder.write("a.yaml", SHOP);
        folder.write("b.yaml", GATEWAY);
        folder.settled();
        fs::remove_file(folder.dir.path().join("a.yaml")).unwrap();
        assert!(whole(&folder.settled()).services.is_empty());

        // The last file's content was read, and is gone from `files` by now: what is held must say it.
        fs::remove_file(folder.dir.path().join("b.yaml")).unwrap();
        let seen = folder.settled();
        assert_eq!(seen.listing, Listing::Bare, "an empty folder is no list");
        assert!(
            seen.faults[0].reason.starts_with("the folder holds no YAML file"),
            "{seen:?}"
        );
        folder.write("none.yaml", "services: []");
        let seen = folder.settled();
        assert_eq!(*whole(&seen), View::default(), "a list of nothing is one");
        assert_eq!(seen.faults, []);

        let fault = StaticDir::new(&folder.dir.path().join("gone"))
            .look()
            .unwrap_err();
        assert!(fault.reason.starts_with("cannot list the folder"), "{fault}");
    }
}
