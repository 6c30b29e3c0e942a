//! `tombolo sync` with the real binary on a real management plane: a folder and a person who write the same resources never
//! undo each other's work without being told.
#![allow(clippy::unwrap_used)]

use std::fs;

use serde_json::Value;
use tombolo_tests::console::{Console, Said};

const PAY: &str = "organizations/acme/tenants/pay";
const SYNC: &str = "tombolo sync mesh --node organizations/acme/tenants/pay";

/// A folder and a server.
struct Stage {
    console: Console,
}

impl Stage {
    async fn start() -> Stage {
        let console = Console::start().await;
        fs::create_dir(console.folder().join("mesh")).unwrap();
        Stage { console }
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.console.folder().join("mesh").join(file), text).unwrap();
    }

    async fn run(&self, command: &str) -> Said {
        self.console.run(&[command]).await.unwrap().remove(0)
    }

    /// The differences that are found now, as `leaf state by`.
    async fn drift(&self) -> Vec<String> {
        let said = self.run(&format!("{SYNC} --check -o json")).await;
        let answer: Value =
            serde_json::from_str(&said.text).unwrap_or_else(|error| panic!("{error}: {}", said.text));
        let drift: Vec<String> = answer["drift"].as_array().unwrap().iter().map(line).collect();
        assert_eq!(said.code, Some(if drift.is_empty() { 0 } else { 2 }), "{drift:?}");
        drift
    }
}

fn line(difference: &Value) -> String {
    let leaf = difference["name"].as_str().unwrap().rsplit('/').next().unwrap();
    let by = difference["by"]
        .as_str()
        .unwrap_or("-")
        .rsplit('/')
        .next()
        .unwrap();
    format!("{leaf} {} {by}", difference["state"].as_str().unwrap())
}

#[track_caller]
fn says(said: &Said, code: i32, text: &str) {
    assert_eq!(said.code, Some(code), "{}", said.text);
    assert!(said.text.contains(text), "{} does not hold {text:?}", said.text);
}

#[tokio::test]
async fn a_folder_and_a_person_do_not_fight_silently() {
    let stage = Stage::start().await;
    stage.write("pay.yaml", &format!("name: {PAY}\n"));
    stage.write(
        "a.yaml",
        &format!("name: {PAY}/workspaces/a\nspec: {{namespaces: ['*/a']}}\n"),
    );
    stage.write(
        "b.yaml",
        &format!("name: {PAY}/workspaces/b\nspec: {{namespaces: ['*/b']}}\n"),
    );
    assert_eq!(
        stage.drift().await,
        ["pay missing -", "a missing -", "b missing -"]
    );
    says(
        &stage.run(&format!("{SYNC} --dry-run")).await,
        0,
        "3 left as they are",
    );
    says(&stage.run(SYNC).await, 0, "3 applied");
    assert!(stage.drift().await.is_empty());

    // By hand: refused, and nothing of it happens.
    let edit = format!("name: {PAY}/workspaces/a\ndescription: by hand\nspec: {{namespaces: ['*/c']}}\n");
    fs::write(stage.console.folder().join("edit.yaml"), edit).unwrap();
    let refused = stage.run("tombolo apply --overwrite -f edit.yaml").await;
    let why = "is managed by sync/organizations/acme/tenants/pay in /spec/namespaces";
    says(&refused, 1, why);
    let refused = stage.run(&format!("tombolo delete {PAY}/workspaces/b")).await;
    says(&refused, 1, "is managed by sync/organizations/acme/tenants/pay");
    assert!(stage.drift().await.is_empty());

    // Forced: it happens, and the next sync tells what and who.
    says(
        &stage.run("tombolo apply --overwrite --force -f edit.yaml").await,
        0,
        "update",
    );
    says(
        &stage
            .run(&format!("tombolo delete --force {PAY}/workspaces/b"))
            .await,
        0,
        "deleted",
    );
    assert_eq!(
        stage.drift().await,
        ["a changedElsewhere admin", "b missing admin"]
    );
    says(&stage.run(SYNC).await, 0, "2 applied");
    assert!(stage.drift().await.is_empty());

    // Another folder's node above: the same resources, and not without force.
    let above = "tombolo sync mesh --node organizations/acme";
    says(
        &stage.run(above).await,
        1,
        "is managed by sync/organizations/acme/tenants/pay: nothing was changed",
    );
    says(&stage.run(&format!("{above} --force")).await, 0, "3 applied");
    assert_eq!(
        stage.drift().await,
        ["pay foreign acme", "a foreign acme", "b foreign acme"]
    );
    stage.console.stop().await;
}

#[tokio::test]
async fn a_folder_and_a_person_share_a_resource_by_its_fields() {
    let stage = Stage::start().await;
    let edit = |text: &str| fs::write(stage.console.folder().join("edit.yaml"), text).unwrap();
    let shop = format!("name: {PAY}/workspaces/shop\n");
    let document = format!("name: {PAY}\n---\n{shop}spec: {{namespaces: ['*/shop']}}\n");
    stage.write("pay.yaml", &document);
    says(&stage.run(SYNC).await, 0, "2 applied");

    // What the folder does not set is no drift, and stays when the folder changes.
    edit(&format!(
        "{shop}description: ask the shop team\nspec: {{namespaces: ['*/shop']}}\n"
    ));
    says(
        &stage.run("tombolo apply --overwrite -f edit.yaml").await,
        0,
        "update",
    );
    assert!(stage.drift().await.is_empty());
    stage.write("pay.yaml", &document.replace("*/shop", "*/shops"));
    assert_eq!(stage.drift().await, ["shop changed -"]);
    says(&stage.run(SYNC).await, 0, "1 applied");
    let got = stage
        .run(&format!("tombolo get {PAY}/workspaces/shop -o yaml"))
        .await;
    says(&got, 0, "description: ask the shop team");
    says(&got, 0, "*/shops");

    // What it sets is: with who has changed it, also when somebody else has changed another field since.
    stage.write("pay.yaml", &document);
    says(&stage.run(SYNC).await, 0, "1 applied");
    edit(&format!(
        "{shop}description: ask the shop team\nspec: {{namespaces: ['*/mine']}}\n"
    ));
    says(
        &stage.run("tombolo apply --overwrite --force -f edit.yaml").await,
        0,
        "update",
    );
    let ben = "name: organizations/acme/users/ben\n---\nname: organizations/acme/bindings/ben\n\
        spec: {role: admin, subjects: [organizations/acme/users/ben]}\n";
    fs::write(stage.console.folder().join("ben.yaml"), ben).unwrap();
    says(&stage.run("tombolo apply -f ben.yaml").await, 0, "create");
    edit(&format!(
        "{shop}description: ask ben\nspec: {{namespaces: ['*/mine']}}\n"
    ));
    let ben = "TOMBOLO_TOKEN=$(tombolo token create organizations/acme/users/ben) tombolo";
    says(
        &stage.run(&format!("{ben} apply --overwrite -f edit.yaml")).await,
        0,
        "update",
    );
    assert_eq!(stage.drift().await, ["shop changedElsewhere admin"]);
    let told = stage.run(&format!("{SYNC} --check")).await;
    says(&told, 2, "/spec/namespaces");

    // What the folder newly wants and a person has set otherwise is not taken unasked.
    says(&stage.run(SYNC).await, 0, "1 applied");
    stage.write(
        "pay.yaml",
        &document.replace("spec:", "description: the shop\nspec:"),
    );
    assert_eq!(stage.drift().await, ["shop contested -"]);
    let refused = stage.run(SYNC).await;
    says(&refused, 1, "somebody else has set /description");
    says(&stage.run(&format!("{SYNC} --force")).await, 0, "1 applied");
    assert!(stage.drift().await.is_empty());
    stage.console.stop().await;
}

#[tokio::test]
async fn what_was_never_in_the_folder_is_left_alone_and_the_rest_goes_when_asked() {
    let stage = Stage::start().await;
    stage.write("pay.yaml", &format!("name: {PAY}\n"));
    let group = format!("{PAY}/workspaces/a/trafficgroups/web");
    let a = format!("name: {PAY}/workspaces/a\nspec: {{namespaces: ['*/a']}}\n---\nname: {group}\n");
    stage.write("a.yaml", &a);
    says(&stage.run(SYNC).await, 0, "3 applied");
    let other = format!("name: {PAY}/workspaces/other\nspec: {{namespaces: ['*/other']}}\n");
    fs::write(stage.console.folder().join("other.yaml"), other).unwrap();
    says(&stage.run("tombolo apply -f other.yaml").await, 0, "create");

    fs::remove_file(stage.console.folder().join("mesh/a.yaml")).unwrap();
    assert_eq!(stage.drift().await, ["a surplus -", "web surplus -"]);
    let said = stage.run(SYNC).await;
    says(&said, 0, "2 left as they are");
    assert!(said.text.contains("1 more below"), "{}", said.text);
    says(&stage.run(&format!("{SYNC} --prune")).await, 0, "2 applied");
    assert!(stage.drift().await.is_empty());
    says(
        &stage.run(&format!("tombolo get {PAY}/workspaces")).await,
        0,
        "workspaces/other",
    );

    // One mistake, and nothing of the folder is applied.
    stage.write(
        "b.yaml",
        &format!("name: {PAY}/workspaces/b\nspec: {{namespaces: ['*/b']}}\n"),
    );
    stage.write(
        "c.yaml",
        &format!("name: {PAY}/workspaces/c\nspec: {{namespaces: ['*/other']}}\n"),
    );
    let refused = stage.run(SYNC).await;
    says(&refused, 1, "is already held by");
    assert_eq!(stage.drift().await, ["b missing -", "c missing -"]);
    stage.console.stop().await;
}

#[tokio::test]
async fn more_than_one_transaction_holds_is_applied_in_several() {
    let stage = Stage::start().await;
    // In two files, for one may hold 1,024 documents.
    for (file, numbers) in [("some.yaml", 0..550), ("more.yaml", 550..1100)] {
        let groups: Vec<String> = numbers
            .map(|number| format!("name: {PAY}/workspaces/a/trafficgroups/g{number}\n"))
            .collect();
        stage.write(file, &groups.join("---\n"));
    }
    let head = format!("name: {PAY}\n---\nname: {PAY}/workspaces/a\nspec: {{namespaces: ['*/a']}}\n");
    stage.write("all.yaml", &head);
    let said = stage.run(&format!("{SYNC} -o json")).await;
    assert_eq!(said.code, Some(0), "{}", said.text);
    let answer: Value = serde_json::from_str(&said.text).unwrap();
    assert_eq!(
        answer["revisions"].as_array().unwrap().len(),
        2,
        "two transactions"
    );
    assert!(stage.drift().await.is_empty());
    for file in ["some.yaml", "more.yaml"] {
        fs::remove_file(stage.console.folder().join("mesh").join(file)).unwrap();
    }
    says(&stage.run(&format!("{SYNC} --prune")).await, 0, "1100 applied");
    assert!(stage.drift().await.is_empty());
    stage.console.stop().await;
}

#[tokio::test]
async fn a_folder_can_be_submitted_for_approval_and_is_applied_as_its_manager() {
    let stage = Stage::start().await;
    stage.write("pay.yaml", &format!("name: {PAY}\n"));
    says(&stage.run(SYNC).await, 0, "1 applied");
    let policy = format!("name: {PAY}/approvalpolicies/two\nspec: {{approver: admin}}\n");
    fs::write(stage.console.folder().join("policy.yaml"), policy).unwrap();
    says(&stage.run("tombolo apply -f policy.yaml").await, 0, "create");
    stage.write(
        "a.yaml",
        &format!("name: {PAY}/workspaces/a\nspec: {{namespaces: ['*/a']}}\n"),
    );
    let refused = stage.run(SYNC).await;
    says(&refused, 1, "need the approval of another person");

    let submitted = stage
        .run(&format!(
            "{SYNC} --submit --description 'the new workspace' -o json"
        ))
        .await;
    assert_eq!(submitted.code, Some(0), "{}", submitted.text);
    let submitted: Value = serde_json::from_str(&submitted.text).unwrap();
    let id = submitted["submitted"]["id"].as_str().unwrap();
    assert_eq!(stage.drift().await, ["a missing -"], "it is only planned");
    let shown = stage.run(&format!("tombolo plan show {id} -o json")).await;
    says(&shown, 0, "the new workspace");

    let binding = "name: organizations/acme/users/ben\n---\nname: organizations/acme/bindings/ben\n\
        spec: {role: admin, subjects: [organizations/acme/users/ben]}\n";
    fs::write(stage.console.folder().join("ben.yaml"), binding).unwrap();
    says(&stage.run("tombolo apply -f ben.yaml").await, 0, "create");
    let ben = "TOMBOLO_TOKEN=$(tombolo token create organizations/acme/users/ben) tombolo";
    says(
        &stage.run(&format!("{ben} plan approve {id}")).await,
        0,
        "approved by",
    );
    // Whoever applies it, it is applied as the folder.
    says(&stage.run(&format!("{ben} plan apply {id}")).await, 0, "create");
    assert!(stage.drift().await.is_empty());
    stage.console.stop().await;
}
