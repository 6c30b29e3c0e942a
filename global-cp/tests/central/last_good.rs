//! What a central knows from its disk, when there is nobody to ask.

use std::fs;

use tombolo_global_cp::{Central, CentralError};
use tombolo_runtime::plane_id::Plane;
use tombolo_runtime::shutdown::Shutdown;

use crate::peers::stamp;
use crate::world::{REVIEWS, World, at_rest, remotes, report};

#[tokio::test]
async fn invariant_4_a_central_serves_from_its_disk_with_everybody_dead() {
    let world = World::new().await;
    let central = world.central().await;
    let (management, east, west) = at_rest(&world, &central).await;
    let before = east.told(|told| told.resources.clone());
    drop((management, east, west));
    central.stop().await;

    let central = world.central().await;
    assert!(
        central.http("GET", "/readyz").await.starts_with("HTTP/1.1 200"),
        "ready without management"
    );
    let east = world.edge("us-east", &central);
    east.publish(stamp(200, 1, "us-east"), true, &report(1));
    east.until("the slice from disk", |told| told.complete.then_some(()))
        .await;
    east.told(|told| {
        assert_eq!(told.resources, before, "to the byte");
        assert_eq!(remotes(&told.json(REVIEWS).unwrap()), ["127.0.2.1:15443"]);
        assert_eq!(told.stamp.as_ref().unwrap().version.revision, 1);
    });
    central.stop().await;
}

/// A cluster that had joined and is unknown now is not an empty one.
#[tokio::test]
async fn a_damaged_report_withholds_and_withdraws_nothing() {
    let world = World::new().await;
    let central = world.central().await;
    let (management, east, west) = at_rest(&world, &central).await;
    drop((management, west));
    central.stop().await;
    let file = world.data_dir().join("reports").join("us-west");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();

    let central = world.central().await;
    assert!(world.data_dir().join("reports").join("us-west.corrupt").exists());
    let fresh = world.edge("us-east", &central);
    fresh.publish(stamp(200, 1, "us-east"), true, &report(1));
    fresh
        .until("what can be known", |told| told.in_sync.then_some(()))
        .await;
    assert!(!fresh.told(|told| told.complete));
    drop(fresh);

    let again = world.edge_again("us-east", &central, &east);
    drop(east);
    again.publish(stamp(300, 1, "us-east"), true, &report(1));
    again.until("contact", |told| told.in_sync.then_some(())).await;
    let held = again.told(|told| remotes(&told.json(REVIEWS).unwrap()));
    assert_eq!(held, ["127.0.2.1:15443"], "what it held stays");
    central.stop().await;
}

#[tokio::test]
async fn a_damaged_intent_is_set_aside_and_nothing_is_served_before_management_speaks() {
    let world = World::new().await;
    let central = world.central().await;
    let (management, east, west) = at_rest(&world, &central).await;
    drop((management, west));
    central.stop().await;
    fs::write(world.data_dir().join("intent"), "nonsense").unwrap();

    let central = world.central().await;
    let unready = central.http("GET", "/readyz").await;
    assert!(
        unready.contains("503") && unready.contains("intent: no intent on disk"),
        "{unready}"
    );
    let again = world.edge_again("us-east", &central, &east);
    drop(east);
    again.publish(stamp(200, 1, "us-east"), true, &report(1));
    central
        .until_link("us-east", |link| link["stamp"] == "200.1#0 of us-east")
        .await;
    assert_eq!(
        again.told(|told| remotes(&told.json(REVIEWS).unwrap())),
        ["127.0.2.1:15443"]
    );
    central.stop().await;
}

#[tokio::test]
async fn a_start_that_cannot_work_says_what_to_check() {
    let world = World::new().await;
    let (_trigger, shutdown) = Shutdown::new();
    let mut config = world.config();
    config.name = "b".to_owned();
    let error = Central::start(config, shutdown.clone()).await.err().unwrap();
    assert!(matches!(error, CentralError::WrongIdentity { .. }));
    assert!(
        error
            .to_string()
            .contains("not that of the central b: check --identity and --name"),
        "{error}"
    );

    let mut config = world.config();
    config.identity = world.issue(Plane::Edge, "us-east");
    let error = Central::start(config, shutdown.clone()).await.err().unwrap();
    assert!(
        error.to_string().contains("spiffe://acme/plane/edge/us-east"),
        "{error}"
    );

    let mut config = world.config();
    config.data_dir = config.identity.join("cert.pem");
    let error = Central::start(config, shutdown.clone()).await.err().unwrap();
    assert!(error.to_string().contains("check --data-dir"), "{error}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = world.config();
    config.listen = taken.local_addr().unwrap();
    let error = Central::start(config, shutdown).await.err().unwrap();
    assert!(
        error.to_string().contains("check that no other process has it"),
        "{error}"
    );
}
