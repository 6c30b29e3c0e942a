//! Approval by another person: who may give it, for what, and what goes past it.

use std::time::Duration;

use anyhow::ensure;
use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};
use tombolo_tests::eventually;

use crate::support::{ACME, Answer, Api, Management, two_teams};

const DEADLINE: Duration = Duration::from_secs(20);
const PAY: &str = "organizations/acme/tenants/pay";
const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";

struct Team {
    management: Management,
    ann: Api,
    ben: Api,
    rob: Api,
}

/// Two administrators of a tenant where a second one must approve, and a reader.
async fn team() -> Team {
    let management = Management::start().await;
    two_teams(&management).await;
    let ann = management.user("ann", &[(PAY, "admin")]).await;
    let ben = management.user("ben", &[(PAY, "admin")]).await;
    let rob = management.user("rob", &[(PAY, "reader")]).await;
    let policy = json!({"name": format!("{PAY}/approvalpolicies/two"), "spec": {"approver": "admin"}});
    management.admin.create(policy).await;
    Team {
        management,
        ann,
        ben,
        rob,
    }
}

fn change(text: &str) -> Value {
    json!({"name": SHOP, "description": text, "spec": {"namespaces": ["*/shop"]}})
}

async fn submit(api: &Api, document: Value) -> String {
    let answer = api.post("plans?submit=true", document).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()["id"].as_str().unwrap().to_owned()
}

async fn act(api: &Api, id: &str, verb: &str) -> Answer {
    api.post(&format!("plans/{id}:{verb}"), json!({"comment": "seen"}))
        .await
}

#[tokio::test]
async fn a_change_below_a_policy_waits_for_another_person() {
    let team = team().await;
    let before = team.management.traces().await;
    team.ann
        .post("changes?overwrite=true", change("alone"))
        .await
        .refused(409, "make a plan with `tombolo plan submit`");
    team.ann
        .send(
            Method::PUT,
            SHOP,
            &[("if-match", "*")],
            change("alone").to_string(),
        )
        .await
        .refused(409, "need the approval of another person");
    team.ann
        .post(&format!("{PAY}:rollback"), json!({"revision": 2}))
        .await
        .refused(409, "need the approval of another person");
    team.ann
        .delete(&format!("{PAY}/approvalpolicies/two"), "*")
        .await
        .refused(409, "need the approval of another person");
    assert_eq!(team.management.traces().await, before);
    eventually(DEADLINE, || async {
        let tried = format!("SELECT count(*) FROM audit WHERE outcome = 'denied' AND name = '{PAY}'");
        let tried = team.management.count(&tried).await;
        ensure!(tried == 4, "{tried} on record");
        Ok(())
    })
    .await;

    let id = submit(&team.ann, change("together")).await;
    act(&team.ann, &id, "apply")
        .await
        .refused(409, "need the approval");
    act(&team.ann, &id, "approve")
        .await
        .refused(403, "nobody approves their own plan");
    act(&team.rob, &id, "approve")
        .await
        .refused(403, "it needs somebody who is admin on");
    let stranger = team.management.user("stranger", &[]).await;
    act(&stranger, &id, "approve")
        .await
        .refused(404, "not yours to see");
    assert_eq!(stranger.get("plans").await.json()["items"], json!([]));
    assert_eq!(team.rob.get("plans").await.json()["items"][0]["id"], json!(id));

    let approved = act(&team.ben, &id, "approve").await;
    assert_eq!(approved.status, 200, "{}", approved.text);
    let applied = act(&team.ann, &id, "apply").await;
    assert_eq!(applied.status, 200, "{}", applied.text);
    assert_eq!(team.ann.get(SHOP).await.json()["description"], "together");
    let audit = team
        .ann
        .get(&format!("audit?name={SHOP}&outcome=done&pageSize=3"))
        .await
        .json();
    let told: Vec<(&str, &str)> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| {
            (
                record["verb"].as_str().unwrap(),
                record["actor"].as_str().unwrap(),
            )
        })
        .collect();
    let (ann, ben) = (format!("{ACME}/users/ann"), format!("{ACME}/users/ben"));
    assert_eq!(
        told,
        [
            ("update", ann.as_str()),
            ("approve-plan", ben.as_str()),
            ("submit-plan", ann.as_str())
        ]
    );
    let reason = audit["items"][0]["reason"].as_str().unwrap();
    assert_eq!(reason, format!("plan {id}, approved by {ben}"));
    act(&team.ann, &id, "apply")
        .await
        .refused(409, "is not open any more");
    team.management.stop().await;
}

#[tokio::test]
async fn a_pipeline_submits_plans_that_neither_it_nor_its_owner_approves() {
    let team = team().await;
    let root = &team.management.admin;
    let account = format!("{ACME}/serviceaccounts/ci");
    root.create(json!({ "name": account })).await;
    let binding =
        json!({"name": format!("{PAY}/bindings/ci"), "spec": {"role": "admin", "subjects": [account]}});
    let bound = root.post("changes?breakGlass=setup", binding).await;
    assert_eq!(bound.status, 200, "{}", bound.text);
    let issued = root.post(&format!("{account}/tokens"), json!({})).await;
    let ci = Api::new(root.addr, issued.json()["token"].as_str());

    let id = submit(&ci, change("released")).await;
    act(&ci, &id, "approve")
        .await
        .refused(400, "only users approve plans");
    act(root, &id, "approve")
        .await
        .refused(403, "whoever owns a service account does not approve its plans");
    assert_eq!(act(&team.ben, &id, "approve").await.status, 200);
    let applied = act(&ci, &id, "apply").await;
    assert_eq!(applied.status, 200, "{}", applied.text);
    assert_eq!(team.ann.get(SHOP).await.json()["description"], "released");

    let id = submit(&ci, change("never")).await;
    assert_eq!(act(&ci, &id, "reject").await.status, 200, "it takes it back");
    team.management.stop().await;
}

#[tokio::test]
async fn of_many_at_once_all_are_kept_and_an_approval_is_good_for_one_write() {
    let team = team().await;
    let texts: Vec<String> = (0..24).map(|number| format!("plan {number}")).collect();
    let ids = join_all(texts.iter().map(|text| submit(&team.ann, change(text)))).await;
    assert_eq!(act(&team.ben, &ids[0], "approve").await.status, 200);
    let applied = join_all((0..4).map(|_| act(&team.ann, &ids[0], "apply"))).await;
    let (done, refused): (Vec<&Answer>, Vec<&Answer>) =
        applied.iter().partition(|answer| answer.status == 200);
    assert_eq!(done.len(), 1, "{applied:?}");
    for answer in refused {
        answer.refused(409, "is not open any more");
    }
    // What the others say is stale by now: nobody can apply them, and their author can take them back.
    act(&team.ann, &ids[1], "apply").await.refused(412, "is stale");
    let taken_back = act(&team.ann, &ids[1], "reject").await;
    assert_eq!(taken_back.status, 200, "{}", taken_back.text);
    team.management.stop().await;
}

#[tokio::test]
async fn an_approval_is_good_for_what_was_approved_and_as_long_as_the_role_is_held() {
    let team = team().await;
    let root = &team.management.admin;
    let id = submit(&team.ann, change("first")).await;
    assert_eq!(act(&team.ben, &id, "approve").await.status, 200);
    // Somebody goes past the policy: the plan is about something else now.
    root.post("changes?overwrite=true&breakGlass=fire", change("between"))
        .await;
    act(&team.ann, &id, "apply").await.refused(412, "is stale");
    act(&team.ben, &id, "approve").await.refused(412, "is stale");

    let id = submit(&team.ann, change("second")).await;
    assert_eq!(act(&team.ben, &id, "approve").await.status, 200);
    let binding = json!({"changes": [{"op": "delete", "name": format!("{PAY}/bindings/ben-admin")}]});
    let gone = root
        .post("changes?overwrite=true&breakGlass=ben+has+left", binding)
        .await;
    assert_eq!(gone.status, 200, "{}", gone.text);
    act(&team.ann, &id, "apply")
        .await
        .refused(409, "need the approval");

    assert_eq!(
        act(&team.ann, &id, "reject").await.status,
        200,
        "she takes it back"
    );
    act(&team.ann, &id, "apply")
        .await
        .refused(409, "is not open any more");

    let id = submit(&team.ann, change("third")).await;
    team.management
        .sql("UPDATE plans SET expires_at = now() - interval '1 second'")
        .await;
    act(root, &id, "approve").await.refused(410, "expired");
    assert_eq!(root.get("plans").await.json()["items"], json!([]));
    team.management.stop().await;
}

/// Who has to undo something at night needs no file for it.
#[tokio::test]
async fn the_glass_is_broken_for_an_update_a_rollback_and_a_deletion_as_well() {
    let team = team().await;
    let root = &team.management.admin;
    let spare = format!("{PAY}/workspaces/spare");
    let document = json!({"name": spare, "spec": {"namespaces": ["*/spare"]}});
    let created = root.post("changes?breakGlass=setup", document).await;
    assert_eq!(created.status, 200, "{}", created.text);
    let revision = created.json()["revision"].clone();

    let update = |query: &str| {
        let document = json!({"name": spare, "description": "broken", "spec": {"namespaces": ["*/spare"]}});
        let (path, spare) = (format!("{spare}{query}"), &spare);
        async move {
            let etag = root.get(spare).await.etag();
            let seen = [("if-match", etag.as_str())];
            root.send(Method::PUT, &path, &seen, document.to_string()).await
        }
    };
    let roll_back = |query: &str| {
        let path = format!("{spare}:rollback{query}");
        let wish = json!({ "revision": revision });
        async move { root.post(&path, wish).await }
    };
    let delete = |query: &str| {
        let (path, spare) = (format!("{spare}{query}"), &spare);
        async move { root.delete(&path, &root.get(spare).await.etag()).await }
    };
    update("").await.refused(409, "need the approval");
    let updated = update("?breakGlass=fire").await;
    assert_eq!(updated.status, 200, "{}", updated.text);
    roll_back("").await.refused(409, "need the approval");
    roll_back("?breakGlass=%20").await.refused(400, "say why");
    let rolled_back = roll_back("?breakGlass=fire").await;
    assert_eq!(rolled_back.status, 200, "{}", rolled_back.text);
    assert_eq!(root.get(&spare).await.json()["description"], Value::Null);
    delete("").await.refused(409, "need the approval");
    let deleted = delete("?breakGlass=fire").await;
    assert_eq!(deleted.status, 200, "{}", deleted.text);

    let records = root.get(&format!("audit?name={spare}&outcome=done")).await.json();
    let reasons: Vec<&str> = records["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["reason"].as_str().unwrap())
        .collect();
    let rolled_back = format!("break glass: fire; {spare} rolled back to revision {revision}");
    assert_eq!(
        reasons,
        [
            "break glass: fire",
            &rolled_back,
            "break glass: fire",
            "break glass: setup"
        ]
    );
    team.management.stop().await;
}

#[tokio::test]
async fn breaking_the_glass_is_for_administrators_and_says_why() {
    let team = team().await;
    let before = team.management.traces().await;
    team.ann
        .post("changes?overwrite=true&breakGlass=hurry", change("x"))
        .await
        .refused(403, "needs the role admin on organizations/acme");
    team.management
        .admin
        .post("changes?overwrite=true&breakGlass=", change("x"))
        .await
        .refused(400, "say why");
    assert_eq!(team.management.traces().await, before);
    let done = team
        .management
        .admin
        .post("changes?overwrite=true&breakGlass=fire", change("x"))
        .await;
    assert_eq!(done.status, 200, "{}", done.text);
    let audit = team
        .management
        .admin
        .get(&format!("audit?name={SHOP}&pageSize=1"))
        .await
        .json();
    assert_eq!(audit["items"][0]["reason"], "break glass: fire");
    // Where no policy asks, there is nothing to approve.
    let media = json!({"name": format!("{ACME}/tenants/media"), "description": "x"});
    let id = submit(&team.management.admin, media).await;
    act(&team.management.admin, &id, "apply").await;
    let seen = team
        .management
        .admin
        .get(&format!("{ACME}/tenants/media"))
        .await
        .json();
    assert_eq!(
        seen["description"], "x",
        "a plan that needs no approval is applied without"
    );
    team.management.stop().await;
}

#[tokio::test]
async fn plans_that_wait_are_listed_page_by_page_and_an_author_has_so_many() {
    let team = team().await;
    let root = &team.management.admin;
    let mut ids = Vec::new();
    for text in ["first", "second", "third"] {
        ids.push(submit(&team.ann, change(text)).await);
    }
    // One that she may not read stands between hers.
    submit(
        root,
        json!({"name": format!("{ACME}/tenants/media"), "description": "x"}),
    )
    .await;
    ids.push(submit(&team.ann, change("fourth")).await);
    ids.reverse();
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let page = team.ann.get(&format!("plans?pageSize=2{token}")).await.json();
        let items = page["items"].as_array().unwrap();
        assert!((1..=2).contains(&items.len()), "{page}");
        assert!(items.iter().all(|item| item["documents"].is_null()), "{page}");
        found.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["nextPageToken"].as_str() else {
            break;
        };
        token = format!("&pageToken={next}");
    }
    assert_eq!(found, ids);
    team.ann
        .get("plans?pageToken=x")
        .await
        .refused(400, "is not from this list");

    team.management
        .sql(
            "INSERT INTO plans (id, organization, node, author, author_uid, description, plan, documents, created_at,
                expires_at, state)
            SELECT gen_random_uuid(), organization, node, author, author_uid, description, plan, documents, created_at,
                expires_at, state
            FROM plans, generate_series(1, 96) WHERE description = '' AND documents::text LIKE '%fourth%'",
        )
        .await;
    let refused = team.ann.post("plans?submit=true", change("too many")).await;
    refused.refused(409, "users/ann has 100 open plans already");
    submit(&team.ben, change("another's")).await;
    assert_eq!(act(&team.ann, &ids[0], "reject").await.status, 200);
    submit(&team.ann, change("one less")).await;
    team.management.stop().await;
}

#[tokio::test]
async fn whoever_may_approve_rejects_what_is_stale_as_well() {
    let team = team().await;
    let root = &team.management.admin;
    let stale = submit(&team.ann, change("first")).await;
    let done = root
        .post("changes?overwrite=true&breakGlass=fire", change("between"))
        .await;
    assert_eq!(done.status, 200, "{}", done.text);
    act(&team.ben, &stale, "approve").await.refused(412, "is stale");
    act(&team.rob, &stale, "reject")
        .await
        .refused(403, "it needs somebody who is admin on");
    let rejected = act(&team.ben, &stale, "reject").await;
    assert_eq!(rejected.status, 200, "{}", rejected.text);
    assert_eq!(rejected.json()["state"], "rejected");

    // Also what could not be made any more, because its author is gone.
    let orphan = submit(&team.ann, change("second")).await;
    for name in [format!("{PAY}/bindings/ann-admin"), format!("{ACME}/users/ann")] {
        let gone = json!({"changes": [{"op": "delete", "name": name}]});
        let gone = root.post("changes?overwrite=true&breakGlass=left", gone).await;
        assert_eq!(gone.status, 200, "{}", gone.text);
    }
    act(&team.ben, &orphan, "approve")
        .await
        .refused(412, "could not make this change any more");
    assert_eq!(act(&team.ben, &orphan, "reject").await.status, 200);
    team.management.stop().await;
}

/// Which resources a rollback would change is known when it is planned, and may be another thing later.
#[tokio::test]
async fn whoever_may_approve_a_part_of_a_rollback_may_reject_it() {
    let management = Management::start().await;
    two_teams(&management).await;
    let root = &management.admin;
    let ann = management.user("ann", &[(PAY, "admin")]).await;
    let cara = management.user("cara", &[(SHOP, "admin"), (PAY, "reader")]).await;
    let rob = management.user("rob", &[(PAY, "reader")]).await;
    let policy = json!({"name": format!("{SHOP}/approvalpolicies/two"), "spec": {"approver": "admin"}});
    root.create(policy).await;
    let both = |text: &str| json!([{"name": PAY, "description": text}, change(text)]);
    let mut revisions = Vec::new();
    for text in ["before", "after"] {
        let done = root
            .post("changes?overwrite=true&breakGlass=fire", both(text))
            .await;
        assert_eq!(done.status, 200, "{}", done.text);
        revisions.push(done.json()["revision"].clone());
    }
    let rollback = json!({"rollback": {"name": PAY, "revision": revisions[0]}});
    let plan = submit(&ann, rollback).await;
    act(&rob, &plan, "reject")
        .await
        .refused(403, "it needs somebody who is admin on");
    let rejected = act(&cara, &plan, "reject").await;
    assert_eq!(rejected.status, 200, "{}", rejected.text);
    management.stop().await;
}

const CI: (&str, &str) = ("tombolo-manager", "ci");

/// As at the first sync after an upgrade from a version that knew no fields.
#[tokio::test]
async fn to_record_the_fields_of_what_is_managed_needs_no_approval() {
    let team = team().await;
    let by = async |api: &Api, how: &str, headers: &[(&str, &str)], document: Value| {
        let path = format!("changes?overwrite=true{how}");
        api.send(Method::POST, &path, headers, document.to_string()).await
    };
    let written = by(&team.management.admin, "&breakGlass=fire", &[CI], change("ci's")).await;
    assert_eq!(written.status, 200, "{}", written.text);
    let older = "UPDATE resources SET managed_fields = NULL WHERE managed_by IS NOT NULL";
    team.management.sql(older).await;
    let (replica, there) = team.management.replica().await;
    let other = [("tombolo-manager", "other"), ("tombolo-force", "true")];
    for (headers, document) in [(&other[..], change("ci's")), (&[CI], change("new"))] {
        let refused = by(&there, "", headers, document).await;
        refused.refused(409, "need the approval of another person");
    }
    let recorded = by(&there, "", &[CI], change("ci's")).await;
    assert_eq!(recorded.status, 200, "{}", recorded.text);
    let fields = there.get(SHOP).await.json()["managedFields"].clone();
    assert_eq!(fields, json!(["/description", "/spec/namespaces"]));
    replica.stop().await.unwrap();
    team.management.stop().await;
}

#[tokio::test]
async fn a_plan_is_stale_once_somebody_changes_a_field_beside_those_of_its_manager() {
    let team = team().await;
    let root = &team.management.admin;
    let shop = |namespaces: &str| json!({"name": SHOP, "spec": {"namespaces": [namespaces]}});
    let path = "changes?overwrite=true&breakGlass=fire";
    let written = root
        .send(Method::POST, path, &[CI], shop("*/shop").to_string())
        .await;
    assert_eq!(written.status, 200, "{}", written.text);
    let submitted = team
        .ann
        .send(
            Method::POST,
            "plans?submit=true",
            &[CI],
            shop("*/more").to_string(),
        )
        .await;
    assert_eq!(submitted.status, 201, "{}", submitted.text);
    let plan = submitted.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(act(&team.ben, &plan, "approve").await.status, 200);
    let beside = root.post(path, change("by hand")).await;
    assert_eq!(beside.status, 200, "{}", beside.text);
    act(&team.ann, &plan, "apply").await.refused(412, "is stale");
    let held = root.get(SHOP).await.json();
    assert_eq!(
        (&held["description"], &held["spec"]["namespaces"]),
        (&json!("by hand"), &json!(["*/shop"]))
    );
    team.management.stop().await;
}

#[tokio::test]
async fn of_a_kept_plan_everybody_is_shown_what_they_may_read() {
    let team = team().await;
    let admin = &team.management.admin;
    let rules = json!([{"kinds": ["Tenant"], "verbs": ["read"]}]);
    let role = json!({"name": format!("{PAY}/roles/names"), "spec": {"rules": rules}});
    let left = admin.post(&format!("{PAY}/roles?breakGlass=test"), role).await;
    assert_eq!(left.status, 201, "{}", left.text);
    let tim = team.management.user("tim", &[]).await;
    let binding = json!({"name": format!("{PAY}/bindings/tim"),
        "spec": {"role": format!("{PAY}/roles/names"), "subjects": [format!("{ACME}/users/tim")]}});
    let left = admin
        .post(&format!("{PAY}/bindings?breakGlass=test"), binding)
        .await;
    assert_eq!(left.status, 201, "{}", left.text);

    let documents = json!([{"name": PAY, "description": "ours"}, change("theirs")]);
    let id = submit(&team.ann, documents).await;
    let shown = |answer: Answer| {
        let plan = answer.json();
        let names: Vec<Value> = plan["documents"][0]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].clone())
            .collect();
        (json!(names), plan["documentsHidden"].clone())
    };
    let plan = format!("plans/{id}");
    assert_eq!(shown(tim.get(&plan).await), (json!([PAY]), json!(1)));
    assert_eq!(shown(team.ben.get(&plan).await), (json!([PAY, SHOP]), json!(0)));
    team.management.stop().await;
}
