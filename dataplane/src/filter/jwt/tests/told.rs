//! What hosts are told of a good token, and clients of one that is not.

use super::*;

#[test]
fn what_a_token_says_goes_on_and_nobody_else_says_it() {
    let jwt = requiring(Some(only(0)), |_| {});
    let claims = json!({"number": 5, "list": ["a", 1], "deep": {"er": "d"}});
    let token = of_a(&claims);
    let payload = token.split('.').nth(1).unwrap();
    let padded = format!("{payload}{}", "=".repeat((4 - payload.len() % 4) % 4));
    let forged = [
        ("x-sub", "root"),
        ("x-deep-er", "x"),
        ("x-payload", "x"),
        // As hosts read them that write `_` for `-`.
        ("x_sub", "root"),
        ("x_deep-er", "x"),
        ("x-y", "z"),
    ];
    let line = bearer(&token);
    let told = format!("x-deep-er: d, x-list: WyJhIiwxXQ==, x-number: 5, x-payload: {padded}, x-sub: me");
    let with = |more: &[(&'static str, String)]| {
        let mut lines: Vec<(&str, String)> = forged.map(|(name, value)| (name, value.to_owned())).into();
        lines.extend(more.iter().cloned());
        lines
    };
    for (target, more, expected) in [
        (
            "/p?q=1".to_owned(),
            vec![("authorization", line.clone())],
            format!("/p?q=1 {told}, x-y: z"),
        ),
        (
            format!("/p?access_token={token}&q=1"),
            vec![],
            format!("/p?q=1 {told}, x-y: z"),
        ),
        (
            format!("/p?q=1&%61ccess%5Ftoken={token}"),
            vec![],
            format!("/p?q=1 {told}, x-y: z"),
        ),
        (
            "/open".to_owned(),
            vec![("authorization", line.clone())],
            format!("/open authorization: {line}, x-y: z"),
        ),
        ("/open".to_owned(), vec![], "/open x-y: z".to_owned()),
    ] {
        let lines = with(&more);
        let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (*name, &**value)).collect();
        let verdict = judged(&jwt, &target, &lines);
        assert_eq!(verdict.answer, None, "{target}");
        assert_eq!(gone_on(&verdict, &target, &lines), expected);
    }
    // A claim that is not there leaves no header, and one that cannot stand in one neither.
    for claims in [
        json!({"sub": ""}),
        json!({"sub": "a\nb"}),
        json!({"number": null}),
    ] {
        let line = bearer(&of_a(&claims));
        let lines = [("authorization", &*line), ("x-sub", "root"), ("x-number", "1")];
        let told = gone_on(&judged(&jwt, "/", &lines), "/", &lines);
        assert!(!told.contains("root") && !told.contains("x-number"), "{told}");
    }
}

#[test]
fn who_has_no_good_token_is_told_what_is_wrong() {
    let old = bearer(&of_a(&json!({"exp": 1})));
    let other = bearer(&of_a(&json!({"aud": "x"})));
    let wanted = Requirement::Provider {
        provider: 0,
        audiences: Some(Audiences::new(&["web".to_owned()])),
    };
    let jwt = requiring(Some(wanted.clone()), |_| {});
    let mute = requiring(Some(wanted), |all| all.says_nothing = true);
    let long = format!("/p?{}", "x".repeat(300));
    let realm = |target: &str| format!("Bearer realm=\"http://h{target}\"");
    let invalid = |target: &str| format!("{}, error=\"invalid_token\"", realm(target));
    for (target, lines, status, text, line) in [
        ("/p\"q", vec![], 401, MISSING, realm("/p%22q")),
        ("/p", vec![("authorization", &*old)], 401, EXPIRED, invalid("/p")),
        (
            "/p",
            vec![("authorization", &*other)],
            403,
            AUDIENCE,
            invalid("/p"),
        ),
        (&long, vec![], 401, MISSING, realm(&long[..256])),
    ] {
        let verdict = judged(&jwt, target, &lines);
        let answer = verdict.answer.unwrap();
        assert_eq!(
            (answer.status.as_u16(), &*answer.body),
            (status, text.as_bytes()),
            "{target}"
        );
        let said = [(WWW_AUTHENTICATE, HeaderValue::try_from(line).unwrap())];
        assert_eq!(verdict.response.set, said);
        let verdict = judged(&mute, target, &lines);
        let answer = verdict.answer.unwrap();
        assert_eq!(
            (answer.status.as_u16(), &*answer.body),
            (status, &b""[..]),
            "{target}"
        );
        assert_eq!(verdict.response.set, []);
    }
}

#[test]
fn routes_say_which_requirement_is_theirs() {
    let jwt = |asks| Jwt {
        asks,
        ..requiring(None, |all| {
            all.named = [("n".into(), Some(only(0))), ("z".into(), None)].into();
        })
    };
    for (asks, expected) in [
        (Asks::ByRules, None),
        (Asks::Nothing, None),
        (Asks::Named("z".into()), None),
        (Asks::Named("n".into()), Some((401, MISSING))),
        (
            Asks::Named("x".into()),
            Some((
                403,
                "Failed JWT authentication: Wrong requirement_name: x. It should be one of [n, z]",
            )),
        ),
    ] {
        let lines = [("x-sub", "root"), ("X_Sub", "root")];
        let verdict = judged(&jwt(asks.clone()), "/", &lines);
        let answer = verdict.answer.as_ref().map(|answer| {
            let text = std::str::from_utf8(&answer.body).unwrap();
            (answer.status.as_u16(), text)
        });
        assert_eq!(answer, expected, "{asks:?}");
        assert_eq!(gone_on(&verdict, "/", &lines), "/ ", "{asks:?}");
    }
}

#[test]
fn preflights_carry_no_tokens() {
    let ask = |jwt: &Jwt, method: &str, lines: &[(&str, &str)]| {
        let mut request = request("/", lines);
        request.method = method.parse().unwrap();
        let subject = Subject {
            authority: "h",
            path: "/",
            client: [10, 0, 0, 1].into(),
            direct: [10, 0, 0, 9].into(),
            request: &request,
        };
        let mut verdict = Verdict::default();
        jwt.judge(&subject, NOW, &mut Facts::default(), &mut verdict);
        verdict.answer.is_none()
    };
    let lets = requiring(Some(only(0)), |all| all.lets_preflights_pass = true);
    let asks = [("origin", "https://a"), ("access-control-request-method", "PUT")];
    assert!(ask(&lets, "OPTIONS", &asks));
    for (method, lines) in [
        ("PUT", &asks[..]),
        ("OPTIONS", &asks[..1]),
        ("OPTIONS", &asks[1..]),
    ] {
        assert!(!ask(&lets, method, lines), "{method} {lines:?}");
    }
    assert!(!ask(&requiring(Some(only(0)), |_| {}), "OPTIONS", &asks));
}
