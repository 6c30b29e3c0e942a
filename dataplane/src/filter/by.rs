//! Which filter has answered in place of a host, and why, for whoever looks at requests as they come. It is noted by places, so that
//! an answer that nobody looks at costs no more.

use super::{Answer, Chain, Filter};
use crate::exchange::Flag;

/// Of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct By {
    pub(crate) filter: Option<usize>,
    /// Of its policies, if it was one of them.
    pub(crate) policy: Option<usize>,
}

impl Chain {
    /// In words of whoever has written the configuration.
    pub(crate) fn why(&self, by: By, answer: &Answer) -> Option<String> {
        Some(match self.filter(by.filter?)? {
            Filter::BodyLimit(_) => "buffer: the body is too long".to_owned(),
            Filter::Cors(_) => "cors: a preflight".to_owned(),
            Filter::ExtAuthz(_) => "ext_authz: not allowed".to_owned(),
            Filter::Fault(_) => "fault: abort".to_owned(),
            // What is wrong is not always said, and is never more than the client is told.
            Filter::Jwt(_) if answer.body.is_empty() => "jwt_authn: not let in".to_owned(),
            Filter::Jwt(_) => format!("jwt_authn: {}", String::from_utf8_lossy(&answer.body)),
            Filter::LocalRateLimit(_) => "local_ratelimit: one too many".to_owned(),
            Filter::RateLimit(_) if answer.flag == Flag::LimiterFailed => {
                "ratelimit: nobody says whether it is one too many".to_owned()
            }
            Filter::RateLimit(_) => "ratelimit: one too many".to_owned(),
            Filter::Quota(_) => "rate_limit_quota: one too many".to_owned(),
            Filter::Rbac(rbac) => {
                let rules = rbac.as_ref().and_then(|rbac| rbac.rules.as_ref());
                match rules
                    .zip(by.policy)
                    .and_then(|(rules, at)| rules.policies.get(at))
                {
                    Some(policy) => format!("rbac: policy {} denies it", policy.name),
                    None => "rbac: no policy allows it".to_owned(),
                }
            }
            Filter::Compressor(_)
            | Filter::Decompressor(_)
            | Filter::GrpcWeb
            | Filter::HeaderMutation(_)
            | Filter::Session(_) => return None,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use http::StatusCode;

    use super::*;
    use crate::balance::Always;
    use crate::config::MILLION;
    use crate::filter::{Abort, Action, Fault, Policy, Rbac, Rule, Rules};
    use crate::matcher::{StringMatcher, Subject};

    fn rbac(action: Action, paths: &[&str]) -> Filter {
        let policy = |path: &&str| Policy {
            name: format!("of {path}").into(),
            permissions: vec![Rule::Path(StringMatcher::exact(path))],
            principals: vec![Rule::Always],
        };
        Filter::Rbac(Some(Arc::new(Rbac {
            rules: Some(Rules {
                action,
                policies: paths.iter().map(policy).collect(),
            }),
            shadow: None,
        })))
    }

    #[test]
    fn who_looks_is_told_which_filter_has_answered_and_why() {
        let abort = Filter::Fault(Fault {
            abort: Some((Abort::Status(StatusCode::IM_A_TEAPOT), MILLION)),
            ..Fault::default()
        });
        let chain = Chain(
            [
                rbac(Action::Deny, &["/a", "/b"]),
                rbac(Action::Allow, &["/c"]),
                abort,
            ]
            .into(),
        );
        for (path, expected) in [
            ("/b", "rbac: policy of /b denies it"),
            ("/d", "rbac: no policy allows it"),
            ("/c", "fault: abort"),
        ] {
            let subject = Subject {
                authority: "a",
                path,
                client: [10, 0, 0, 1].into(),
                direct: [10, 0, 0, 9].into(),
                request: &http::Request::new(()).into_parts().0,
            };
            let verdict = chain.judge(None, &subject, Instant::now, &Always(0));
            let why = chain.why(verdict.by, &verdict.answer.unwrap());
            assert_eq!(why.as_deref(), Some(expected), "{path}");
        }
    }
}
