//! Conditions of bindings: CEL expressions without loops, so that what one may cost is bounded by its length. One that
//! cannot be evaluated grants nothing.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use cel::common::types::{self, CelBool, CelString};
use cel::common::value::CowVal;
use cel::{Context, Env, ExecutionError, Program, Value};
use tombolo_compiler::intent::{Action, Condition};
use tombolo_compiler::name::Fqn;

use super::Asker;

/// What a condition may ask about.
const ATTRIBUTES: [&str; 7] = ["principal", "teams", "action", "kind", "name", "source", "time"];

/// Without macros: `all`, `exists`, `map` and `filter` are what loops in CEL are made of.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::default().with_optional_support(false).with_stdlib();
    let texts = vec![types::STRING_TYPE, types::STRING_TYPE];
    env.add_overload("inNetwork", "in_network_string_string", texts, |arguments| {
        let text = |at: usize| {
            arguments
                .get(at)
                .and_then(|value| value.downcast_ref::<CelString>())
        };
        let within = text(0)
            .zip(text(1))
            .and_then(|(address, network)| in_network(address.inner(), network.inner()));
        let within = within.ok_or_else(|| {
            ExecutionError::function_error("inNetwork", "use an address and a network such as 10.0.0.0/8")
        })?;
        Ok(CowVal::owned(CelBool::from(within)))
    })
    .expect("invariant: the standard library has no inNetwork");
    Arc::new(env)
});

/// A condition that was read once.
pub(crate) struct Compiled {
    condition: Condition,
    /// `None` when it cannot be compiled, by this version at least.
    program: Option<Program>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadCondition {
    #[error("it is not CEL: {0}")]
    Syntax(String),
    #[error("{name} is not known; a condition may ask about {}", ATTRIBUTES.join(", "))]
    UnknownAttribute { name: String },
    #[error("{0} is not a function of conditions; they have no loops and no regular expressions")]
    UnknownFunction(String),
}

impl Compiled {
    pub(crate) fn of(condition: &Condition) -> Compiled {
        Compiled {
            condition: condition.clone(),
            program: compile(condition).ok(),
        }
    }

    pub(crate) fn text(&self) -> &str {
        self.condition.as_str()
    }

    /// Whether it is true now.
    pub(crate) fn holds(&self, asker: &Asker<'_>, teams: &[Fqn], action: Action, node: &Fqn) -> bool {
        let Some(program) = &self.program else {
            return false;
        };
        let teams: Vec<Value> = teams.iter().map(|team| Value::from(team.as_str())).collect();
        let mut context = Context::with_env(ENVIRONMENT.clone());
        context.add_variable_from_value("principal", asker.principal.to_string());
        context.add_variable_from_value("teams", teams);
        context.add_variable_from_value("action", action.as_str());
        context.add_variable_from_value("kind", node.kind().to_string());
        context.add_variable_from_value("name", node.as_str());
        context.add_variable_from_value("source", asker.source);
        context.add_variable_from_value("time", Value::Timestamp(asker.time.fixed_offset()));
        program.execute(&context) == Ok(Value::Bool(true))
    }
}

/// Whether the condition can be evaluated at all.
///
/// # Errors
/// What is wrong with it, for its author.
pub(crate) fn check(condition: &Condition) -> Result<(), BadCondition> {
    compile(condition).map(|_| ())
}

fn compile(condition: &Condition) -> Result<Program, BadCondition> {
    let program = ENVIRONMENT
        .compile(condition.as_str())
        .map_err(|error| BadCondition::Syntax(first_line(&error.to_string())))?;
    let references = program.references();
    let unknown = |name: &&&str| !ATTRIBUTES.contains(*name);
    if let Some(name) = references.variables().iter().find(unknown) {
        return Err(BadCondition::UnknownAttribute {
            name: (*name).to_owned(),
        });
    }
    let loops = ["all", "exists", "exists_one", "map", "filter", "matches", "has"];
    if let Some(name) = loops.into_iter().find(|name| references.has_function(name)) {
        return Err(BadCondition::UnknownFunction(name.to_owned()));
    }
    drop(references);
    Ok(program)
}

/// `10.1.2.3` in `10.0.0.0/8`; `None` for what is no address or no network.
fn in_network(address: &str, network: &str) -> Option<bool> {
    let address: IpAddr = address.parse::<IpAddr>().ok()?.to_canonical();
    let (base, bits) = network.split_once('/')?;
    let base: IpAddr = base.parse().ok()?;
    let bits: u32 = bits.parse().ok()?;
    match (address, base) {
        (IpAddr::V4(address), IpAddr::V4(base)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            Some(address.to_bits() & mask == base.to_bits() & mask)
        }
        (IpAddr::V6(address), IpAddr::V6(base)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            Some(address.to_bits() & mask == base.to_bits() & mask)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Some(false),
        _ => None,
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.condition, f)
    }
}

/// Two that read the same are the same.
impl PartialEq for Compiled {
    fn eq(&self, other: &Compiled) -> bool {
        self.condition == other.condition
    }
}

impl Eq for Compiled {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::iam::Principal;
    use crate::realm::Opened;

    fn condition(text: &str) -> Condition {
        text.to_owned().try_into().unwrap()
    }

    fn holds(text: &str) -> bool {
        let principal = Principal::User {
            name: "organizations/acme/users/ann".parse().unwrap(),
            uid: Uuid::nil(),
        };
        let asker = Asker {
            principal: &principal,
            source: "10.1.2.3",
            time: "2026-11-20T09:30:00Z".parse().unwrap(),
            opened: &Opened::Everything,
        };
        let teams = ["organizations/acme/teams/web".parse().unwrap()];
        let node = "organizations/acme/tenants/pay".parse().unwrap();
        Compiled::of(&condition(text)).holds(&asker, &teams, Action::Update, &node)
    }

    #[test]
    fn a_condition_sees_who_asks_what_from_where_and_when() {
        for text in [
            "principal == 'organizations/acme/users/ann'",
            "'organizations/acme/teams/web' in teams",
            "action == 'update' && kind == 'Tenant'",
            "name.startsWith('organizations/acme/tenants/')",
            "inNetwork(source, '10.0.0.0/8') && !inNetwork(source, '10.2.0.0/16')",
            "time.getHours() >= 9 && time.getHours() < 17",
            "time < timestamp('2027-01-01T00:00:00Z')",
            "inNetwork(source, '0.0.0.0/0') && !inNetwork(source, '::/0')",
        ] {
            assert!(holds(text), "{text}");
        }
    }

    #[test]
    fn an_address_of_ipv4_is_one_however_it_is_written() {
        assert_eq!(in_network("::ffff:10.0.0.5", "10.0.0.0/8"), Some(true));
        assert_eq!(in_network("::ffff:11.0.0.5", "10.0.0.0/8"), Some(false));
    }

    #[test]
    fn what_is_false_or_fails_does_not_hold() {
        for text in [
            "false",
            "1",
            "'true'",
            "1 / 0 == 1",
            "kind.foo == 1",
            "inNetwork(source, 'intranet')",
            "inNetwork(source, '10.0.0.0/64')",
            "teams[7] == 'x'",
            "nobody == 'knows'",
            "action ==",
        ] {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn what_could_never_hold_or_has_loops_is_refused_with_its_reason() {
        for (text, words) in [
            ("action ==", "it is not CEL"),
            (
                "user == 'ann'",
                "user is not known; a condition may ask about principal, teams,",
            ),
            ("teams.exists(team, true)", "is not known"),
            (
                "teams.all(name, [1,2].all(kind, true))",
                "all is not a function of conditions",
            ),
            ("name.matches('(a*)*b')", "matches is not a function"),
        ] {
            let error = check(&condition(text)).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let deep = format!("{}true{}", "(".repeat(250), ")".repeat(250));
        assert!(check(&condition(&deep)).is_err(), "nesting is bounded, too");
    }
}
