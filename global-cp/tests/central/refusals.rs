//! What central does not let in: strangers, other clusters' names, and nonsense.

use tombolo_proto::resource::Resource;
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_runtime::tls::Identity;

use crate::peers::{Peer, stamp};
use crate::world::{REVIEWS, World, at_rest, remotes, report};

#[tokio::test]
async fn nonsense_from_an_edge_is_refused_by_name_and_the_old_value_stays() {
    let world = World::new().await;
    let central = world.central().await;
    let (management, east, west) = at_rest(&world, &central).await;
    let resource = |name: &str, body: &str| Resource::new(name, body.to_owned()).unwrap();
    let good = report(1);
    let nonsense = [
        resource("services/shop/reviews", "{\"service\": 1}"),
        resource("gateways/mesh/gateway", &good[1].1.to_string()),
        resource("services/shop/ratings", &good[0].1.to_string()),
        resource("pods/shop/reviews-1", "{}"),
        resource("receipt", "\u{0}\u{1}"),
    ];
    east.publish_resources(stamp(100, 2, "us-east"), true, nonsense);
    let mut rejected = east
        .until("refusals", |told| {
            (told.rejected.len() == 3).then(|| told.rejected.clone())
        })
        .await;
    rejected.sort_by(|a, b| a.name.cmp(&b.name));
    let reasons: Vec<_> = rejected
        .iter()
        .map(|rejection| rejection.reason.as_str())
        .collect();
    assert!(reasons[0].contains("is none of services/"), "{reasons:?}");
    assert!(
        reasons[1].contains("cannot read the body of receipt"),
        "{reasons:?}"
    );
    assert!(
        reasons[2].contains("cannot read the body of services/shop/reviews"),
        "{reasons:?}"
    );

    // Its neighbour in the same update counts, and the old value is what others still see.
    let ratings = REVIEWS.replace("reviews", "ratings");
    west.until("the good neighbour", |told| {
        (remotes(&told.json(&ratings)?) == ["127.0.1.1:15443"]).then_some(())
    })
    .await;
    assert_eq!(
        west.told(|told| remotes(&told.json(REVIEWS).unwrap())),
        ["127.0.1.1:15443"]
    );
    let link = central.link("us-east").await;
    assert_eq!(link["refused"].as_object().unwrap().len(), 3, "{link}");
    assert!(
        management
            .told(|told| told.json("clusters/us-east/pods/shop/reviews-1"))
            .is_none()
    );

    // Mended, it is taken.
    east.publish(stamp(100, 3, "us-east"), true, &report(1));
    east.until("no more refusals", |told| told.rejected.is_empty().then_some(()))
        .await;
    central.stop().await;
}

#[tokio::test]
async fn nobody_reports_for_another_cluster() {
    let world = World::new().await;
    let central = world.central().await;
    let (_management, _east, west) = at_rest(&world, &central).await;
    let impostor = Peer::edge("us-east", central.feed, world.identity(Plane::Edge, "us-north"));
    impostor.publish(stamp(900, 1, "us-east"), true, &[]);
    impostor
        .until("a refusal", |told| (!told.errors.is_empty()).then_some(()))
        .await;
    assert!(impostor.told(|told| told.resources.is_empty()));
    assert_eq!(
        west.told(|told| remotes(&told.json(REVIEWS).unwrap())),
        ["127.0.1.1:15443"]
    );
    assert_eq!(central.link("us-east").await["stamp"], "100.1#0 of us-east");
    central.stop().await;
}

#[tokio::test]
async fn only_edges_of_the_organization_get_in() {
    let world = World::new().await;
    let central = world.central().await;
    let (_management, _east, west) = at_rest(&world, &central).await;

    let other_plane = Peer::edge("us-east", central.feed, world.identity(Plane::Central, "b"));
    let error = other_plane
        .until("a refusal", |told| told.errors.first().cloned())
        .await;
    assert!(
        error.contains("spiffe://acme/plane/central/b is not an edge: only edges report to a central"),
        "{error}"
    );

    // A certificate that says the right things, signed by somebody else.
    let folder = tempfile::tempdir().unwrap();
    let forged = Authority::create_or_open(&folder.path().join("authority"), "acme").unwrap();
    let id = PlaneId::new("acme", Plane::Edge, "us-east").unwrap();
    forged.issue(&id, &folder.path().join("edge")).unwrap();
    let stranger = Identity::load(&folder.path().join("edge")).unwrap();
    let stranger = Peer::edge("us-east", central.feed, stranger);
    stranger.publish(stamp(900, 1, "us-east"), true, &[]);
    stranger
        .until("a refusal", |told| (!told.errors.is_empty()).then_some(()))
        .await;
    assert!(stranger.told(|told| told.resources.is_empty()));

    assert_eq!(
        west.told(|told| remotes(&told.json(REVIEWS).unwrap())),
        ["127.0.1.1:15443"]
    );
    assert_eq!(central.link("us-east").await["stamp"], "100.1#0 of us-east");
    central.stop().await;
}
