//! Which of a listener's filter chains a connection is served by: by the name, the transport and the protocols that it begins
//! with, narrowed in this order as Envoy does it, each time to the most specific, without going back.

use std::collections::HashMap;

use crate::sni::Hello;

/// What a chain serves; what is empty or `None` is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChainMatch {
    pub(crate) destination_port: Option<u16>,
    /// In lower case; `*.` stands for one label or more.
    pub(crate) server_names: Vec<Box<str>>,
    pub(crate) transport: Option<Transport>,
    pub(crate) protocols: Vec<Box<[u8]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Plain,
    Tls,
}

/// By the whole name, by `.suffix`, and by nothing for chains of any name.
type Names = HashMap<Box<str>, Vec<Choice>>;

/// Finds a chain, however many there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Choices {
    /// By the port, and by nothing for chains of any port.
    by_port: HashMap<Option<u16>, Names>,
    default: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Choice {
    transport: Option<Transport>,
    protocol: Option<Box<[u8]>>,
    chain: usize,
}

impl ChainMatch {
    /// Whether it takes a look at what a connection begins with.
    pub(crate) fn needs_a_look(&self) -> bool {
        !self.server_names.is_empty() || !self.protocols.is_empty() || self.transport == Some(Transport::Tls)
    }
}

impl Choices {
    /// Of the chains of a listener, in their order; or the two that take the same.
    pub(crate) fn new<'a>(
        matches: impl Iterator<Item = &'a ChainMatch>,
        default: Option<usize>,
    ) -> Result<Self, (usize, usize)> {
        let mut by_port: HashMap<Option<u16>, Names> = HashMap::new();
        for (chain, wanted) in matches.enumerate() {
            let held = by_port.entry(wanted.destination_port).or_default();
            let any: &[Box<str>] = &[Box::from("")];
            let names = if wanted.server_names.is_empty() {
                any
            } else {
                &wanted.server_names
            };
            for name in names {
                add(held, name, chain, wanted)?;
            }
        }
        Ok(Self { by_port, default })
    }

    /// The chain for a connection to `port` that begins with `hello`, or with something else than TLS.
    pub(crate) fn choose(&self, port: u16, hello: Option<&Hello>) -> Option<usize> {
        let name = hello
            .and_then(|hello| hello.server_name.as_deref())
            .unwrap_or_default();
        let transport = hello.map_or(Transport::Plain, |_| Transport::Tls);
        let protocols = hello.map_or(&[][..], |hello| &hello.protocols);
        // Those that name the port exclude the others, for good.
        let of_any = || self.by_port.get(&None);
        self.by_port
            .get(&Some(port))
            .or_else(of_any)
            .and_then(|names| named(names, name))
            .and_then(|named| narrow(named, transport, protocols))
            .or(self.default)
    }
}

fn named<'a>(names: &'a Names, name: &str) -> Option<&'a [Choice]> {
    let suffixes = name
        .match_indices('.')
        .filter(|(at, _)| *at > 0)
        .map(|(at, _)| &name[at..]);
    let whole = Some(name).filter(|name| !name.starts_with('.'));
    let mut keys = whole.into_iter().chain(suffixes).chain([""]);
    keys.find_map(|key| names.get(key)).map(Vec::as_slice)
}

fn add(names: &mut Names, name: &str, chain: usize, wanted: &ChainMatch) -> Result<(), (usize, usize)> {
    let held = names
        .entry(name.strip_prefix('*').unwrap_or(name).into())
        .or_default();
    let protocols = wanted.protocols.iter().cloned().map(Some);
    let any = wanted.protocols.is_empty().then_some(None);
    for protocol in protocols.chain(any) {
        let choice = Choice {
            transport: wanted.transport,
            protocol,
            chain,
        };
        let taken = held
            .iter()
            .find(|held| (held.transport, &held.protocol) == (choice.transport, &choice.protocol));
        if let Some(taken) = taken {
            return Err((taken.chain, chain));
        }
        held.push(choice);
    }
    Ok(())
}

fn narrow(choices: &[Choice], transport: Transport, protocols: &[Box<[u8]>]) -> Option<usize> {
    let said = Some(transport);
    let transport = said.filter(|_| choices.iter().any(|choice| choice.transport == said));
    let find = |protocol: Option<&[u8]>| {
        let wanted =
            |choice: &&Choice| choice.transport == transport && choice.protocol.as_deref() == protocol;
        choices.iter().find(wanted).map(|choice| choice.chain)
    };
    let of_theirs = protocols.iter().find_map(|protocol| find(Some(protocol)));
    of_theirs.or_else(|| find(None))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// `PORT NAMES TRANSPORT PROTOCOLS`, each `-` for none.
    fn wanted(text: &str) -> ChainMatch {
        let [port, names, transport, protocols] = text.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let split = |text: &str| -> Vec<String> {
            text.split(',')
                .filter(|part| *part != "-")
                .map(str::to_owned)
                .collect()
        };
        ChainMatch {
            destination_port: port.parse().ok(),
            server_names: split(names).into_iter().map(Into::into).collect(),
            transport: match transport {
                "tls" => Some(Transport::Tls),
                "plain" => Some(Transport::Plain),
                _ => None,
            },
            protocols: split(protocols)
                .into_iter()
                .map(|protocol| protocol.into_bytes().into())
                .collect(),
        }
    }

    fn hello(name: &str, protocols: &[&str]) -> Hello {
        Hello {
            server_name: Some(name).filter(|name| !name.is_empty()).map(Into::into),
            protocols: protocols
                .iter()
                .map(|protocol| protocol.as_bytes().into())
                .collect(),
        }
    }

    #[test]
    fn the_most_specific_chain_is_chosen_step_by_step() {
        let chains = [
            "- a.example,c.example tls -",
            "- *.example tls -",
            "- *.b.example - -",
            "- d.example tls h2",
            "- d.example tls http/1.1,x",
            "- - plain -",
            "9 - - -",
            "- e.example plain -",
        ];
        let chains = chains.map(wanted);
        let without = Choices::new(chains.iter(), None).unwrap();
        let with = Choices::new(chains.iter(), Some(99)).unwrap();
        for (name, protocols, expected) in [
            ("a.example", &[][..], Some(0)),
            ("c.example", &["h2"], Some(0)),
            ("x.example", &[], Some(1)),
            ("x.y.example", &[], Some(1)),
            ("example", &[], None),
            (".example", &[], None),
            ("b.example", &[], Some(1)),
            ("x.b.example", &[], Some(2)),
            ("d.example", &["h2", "x"], Some(3)),
            ("d.example", &["x", "h2"], Some(4)),
            // Its name decides, though another chain would take it.
            ("d.example", &["spdy"], None),
            ("d.example", &[], None),
            ("e.example", &[], None),
            ("other", &[], None),
            ("", &[], None),
        ] {
            let hello = hello(name, protocols);
            assert_eq!(without.choose(80, Some(&hello)), expected, "{name} {protocols:?}");
            assert_eq!(
                with.choose(80, Some(&hello)),
                expected.or(Some(99)),
                "{name} {protocols:?}"
            );
        }
        assert_eq!(without.choose(80, None), Some(5));
        assert_eq!(without.choose(9, Some(&hello("a.example", &[]))), Some(6));
        assert_eq!(without.choose(9, None), Some(6));
    }

    #[test]
    fn no_two_chains_take_the_same() {
        for (chains, expected) in [
            (vec!["- - - -", "- - - -"], Some((0, 1))),
            (vec!["- - tls -", "- - - -"], None),
            (vec!["- a,b - -", "- c,b - -"], Some((0, 1))),
            (vec!["- a - h2", "- a - http/1.1,h2"], Some((0, 1))),
            (vec!["- a - h2", "- a - http/1.1", "- a - -"], None),
            (vec!["80 - - -", "- - - -"], None),
            (vec!["9 - - -", "80 - - -", "9 - - -"], Some((0, 2))),
            (vec!["- a - -", "- *.a - -"], None),
        ] {
            let matches: Vec<ChainMatch> = chains.iter().map(|chain| wanted(chain)).collect();
            assert_eq!(Choices::new(matches.iter(), None).err(), expected, "{chains:?}");
        }
    }
}
