//! Intent and reports become routes, and only the owner takes something back.

use serde_json::json;

use crate::peers::stamp;
use crate::world::{REVIEWS, World, at_rest, intent, joined, remotes, report, service};

#[tokio::test]
async fn reports_of_two_clusters_become_each_others_remotes_and_go_up() {
    let world = World::new().await;
    let central = world.central().await;
    let (management, east, west) = at_rest(&world, &central).await;
    assert_eq!(
        east.told(|told| remotes(&told.json(REVIEWS).unwrap())),
        ["127.0.2.1:15443"]
    );
    assert_eq!(
        west.told(|told| remotes(&told.json(REVIEWS).unwrap())),
        ["127.0.1.1:15443"]
    );
    let version = east.told(|told| told.stamp.as_ref().unwrap().version);
    assert_eq!(
        (version.epoch, version.revision),
        (1, 1),
        "the slice carries the intent's version"
    );

    management
        .until("reports of both clusters", |told| {
            let whole = told.complete
                && told.json("clusters/us-east/agent")? == json!("live")
                && told.json("clusters/us-west/services/shop/reviews")? == service();
            whole.then_some(())
        })
        .await;
    let receipt = management.told(|told| told.json("clusters/us-east/receipt").unwrap());
    assert_eq!(receipt, report(1)[2].1);
    assert!(management.told(|told| told.json("findings")).is_some());

    // A revision that moves no route reaches the edges all the same.
    let bodies: Vec<_> = intent().into_iter().chain(joined()).collect();
    management.publish(stamp(1, 2, "management"), true, &bodies);
    east.until("the new revision", |told| {
        (told.stamp.as_ref()?.version.revision == 2).then_some(())
    })
    .await;

    drop(east);
    management
        .until("the loss of an agent", |told| {
            (told.json("clusters/us-east/agent")? == json!("lost")).then_some(())
        })
        .await;
    assert_eq!(
        west.told(|told| remotes(&told.json(REVIEWS).unwrap())),
        ["127.0.1.1:15443"]
    );
    central.stop().await;
}

#[tokio::test]
async fn invariant_5_nothing_is_deleted_because_it_was_not_mentioned() {
    let world = World::new().await;
    let central = world.central().await;
    let (_management, east, west) = at_rest(&world, &central).await;

    // The edge starts again and knows only a part of its cluster yet.
    let again = world.edge_again("us-east", &central, &east);
    drop(east);
    let gateway = &report(1)[1..2];
    again.publish(stamp(200, 1, "us-east"), false, gateway);
    central
        .until_link("us-east", |link| link["stamp"] == "200.1#0 of us-east")
        .await;
    assert_eq!(
        west.told(|told| remotes(&told.json(REVIEWS).unwrap())),
        ["127.0.1.1:15443"]
    );

    // Only when it says that it knows everything is the service gone.
    again.publish(stamp(200, 2, "us-east"), true, gateway);
    west.until("the withdrawal", |told| {
        remotes(&told.json(REVIEWS)?).is_empty().then_some(())
    })
    .await;
    central.stop().await;
}

/// What a cluster that was never whole has said so far concerns nobody.
#[tokio::test]
async fn a_cluster_that_has_not_told_everything_is_unknown() {
    let world = World::new().await;
    let central = world.central().await;
    let management = world.management().await;
    let bodies: Vec<_> = intent().into_iter().chain(joined()).collect();
    management.publish(stamp(1, 1, "management"), true, &bodies);
    let east = world.edge("us-east", &central);
    let west = world.edge("us-west", &central);
    east.publish(stamp(100, 1, "us-east"), true, &report(1));
    west.publish(stamp(100, 1, "us-west"), false, &report(2));
    east.until("a first slice", |told| told.in_sync.then_some(()))
        .await;
    assert!(
        !east.told(|told| told.complete),
        "what concerns us-west is withheld"
    );
    west.publish(stamp(100, 2, "us-west"), true, &report(2));
    east.until("the whole slice", |told| {
        (told.complete && !remotes(&told.json(REVIEWS)?).is_empty()).then_some(())
    })
    .await;
    central.stop().await;
}
