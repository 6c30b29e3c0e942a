//! What a token filter leaves to those behind it, and where it is switched off.

use std::time::Instant;

use super::*;
use crate::balance::Always;
use crate::filter::{
    Action, Chain, Filter, Held, ListenerFilter, Override, Overrides, Policy, Rbac, Rule, Rules, chains,
};
use crate::matcher::{HeaderMatcher, Of, Wanted};

fn judged_by(chain: &Chain, target: &str, lines: &[(&str, &str)]) -> Verdict {
    let request = request(target, lines);
    chain.judge(None, &subject(&request), Instant::now, &Always(0))
}

#[test]
fn those_behind_see_what_goes_on() {
    let header = |name: &'static str| Of::Header(HeaderName::from_static(name));
    let is = |text: &str| Wanted::Text(StringMatcher::exact(text));
    let token = |sub: &str| of_a(&json!({"sub": sub, "exp": u64::MAX >> 1}));
    let (me, you) = (token("me"), token("you"));
    let in_query = format!("/?access_token={me}&x=1");
    type Case<'a> = (Of, Wanted, &'a str, &'a [(&'a str, &'a str)], bool);
    let cases: &[Case<'_>] = &[
        (
            header("x-sub"),
            is("me"),
            "/",
            &[("authorization", &bearer(&me))],
            true,
        ),
        (
            header("x-sub"),
            is("me"),
            "/",
            &[("authorization", &bearer(&you)), ("x-sub", "me")],
            false,
        ),
        (header("x-sub"), is("me"), "/", &[("x-sub", "me")], false),
        (header("x-sub"), is("me"), "/open", &[("x-sub", "me")], false),
        (
            header("x-sub"),
            Wanted::Present(true),
            "/",
            &[("x-sub", "me")],
            false,
        ),
        (
            header("authorization"),
            Wanted::Present(true),
            "/",
            &[("authorization", &bearer(&me))],
            false,
        ),
        (header("x-other"), is("1"), "/", &[("x-other", "1")], true),
        (Of::Target, is("/?x=1"), &in_query, &[], true),
        (Of::Target, is("/?x=1"), "/?x=1", &[], true),
    ];
    for (of, wanted, target, lines, expected) in cases {
        let rule = Rule::Header(HeaderMatcher {
            of: of.clone(),
            wanted: wanted.clone(),
            inverted: false,
            missing_is_empty: false,
        });
        let rules = Rules {
            action: Action::Allow,
            policies: vec![Policy {
                name: "p".into(),
                permissions: vec![rule],
                principals: vec![Rule::Always],
            }],
        };
        let rbac = Rbac {
            rules: Some(rules),
            shadow: None,
        };
        let jwt = requiring(Some(Requirement::Missing([0].into())), |_| {});
        let chain = Chain([Filter::Jwt(jwt), Filter::Rbac(Some(Arc::new(rbac)))].into());
        let verdict = judged_by(&chain, target, lines);
        assert_eq!(
            verdict.answer.is_none(),
            *expected,
            "{of:?} {wanted:?} {target} {lines:?}"
        );
    }
}

/// Whoever switches it off does not mean that clients may say what tokens say.
#[test]
fn where_it_is_off_nobody_says_what_tokens_say() {
    for (is_on, said) in [(true, Some(Override::Off)), (false, None), (true, None)] {
        let filter = ListenerFilter {
            name: "jwt".into(),
            is_on,
            filter: Filter::Jwt(requiring(Some(only(0)), |_| {})),
        };
        let said = said.into_iter().map(|said| ("jwt".into(), said));
        let levels = vec![Arc::new(said.collect::<Overrides>())];
        let is_off = !is_on || !levels[0].is_empty();
        let chains = chains(&[filter], &[levels], Held::default());
        let lines = [("x-sub", "root"), ("x_sub", "root"), ("x-y", "z")];
        let verdict = judged_by(&chains[0], "/", &lines);
        assert_eq!(verdict.answer.is_none(), is_off);
        assert_eq!(gone_on(&verdict, "/", &lines), "/ x-y: z");
    }
}
