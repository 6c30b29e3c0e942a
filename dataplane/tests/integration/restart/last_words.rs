//! A take-over up to its last words: whichever process dies or hangs between them, one serves and knows that it does.

use super::*;

/// One that runs and is stopped, and one that has taken its ports and says that it serves.
async fn between_ready_and_yours() -> (Mesh, Process, Process) {
    let mesh = Mesh::start().await;
    let running = mesh.ready_proxy(1).await;
    mesh.host.mood.send_replace(Mood::Frozen);
    let successor = mesh.successor(1);
    successor.says("gets ready to serve it").await;
    running.signal(Signal::STOP);
    mesh.host.mood.send_replace(Mood::Well);
    successor.says("waits for the other process to give way").await;
    let mut early = TcpStream::connect(mesh.listener).await.unwrap();
    assert!(talk(&mut early, "/early").await.contains("host /early"));
    (mesh, running, successor)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_serves_whatever_happens_between_the_last_words() {
    tokio::join!(
        a_successor_that_dies(),
        a_successor_that_hangs(),
        a_predecessor_that_hangs()
    );
}

async fn a_successor_that_dies() {
    let (mesh, mut running, mut successor) = between_ready_and_yours().await;
    successor.signal(Signal::KILL);
    successor.ended().await;
    running.signal(Signal::CONT);
    running.says("the new process gave up: it ended").await;
    running.says("nobody has taken over").await;
    let load = Load::start(mesh.listener);
    mesh.ready().await;
    mesh.follows_the_edge("as if nothing had happened").await;
    load.answers(100).await;
    // It writes again what it is told, and the next one has it.
    let successor = mesh.successor(1);
    successor.says("took over").await;
    running.ended_well().await;
    load.answers(100).await;
    assert_eq!(load.stop().await, Vec::<String>::new(), "{}", successor.log());
    let stored = tombolo_runtime::last_good::load(&mesh.data.path().join("last-good.xds"));
    let stored = String::from_utf8_lossy(&stored.unwrap().unwrap()).into_owned();
    assert!(stored.contains("as if nothing had happened"));
}

async fn a_successor_that_hangs() {
    let (mesh, mut running, mut successor) = between_ready_and_yours().await;
    successor.signal(Signal::STOP);
    running.signal(Signal::CONT);
    running.says("nobody has taken over").await;
    assert_eq!(successor.said("took over"), 0);
    // Too late: who wakes up is told that it is not it.
    successor.signal(Signal::CONT);
    successor.failed("the proxy that runs does not give way").await;
    mesh.ready().await;
    mesh.follows_the_edge("as if nothing had happened").await;
    assert!(running.child.try_wait().unwrap().is_none(), "{}", running.log());
}

async fn a_predecessor_that_hangs() {
    let (mesh, mut running, successor) = between_ready_and_yours().await;
    successor
        .says("took over from a process that may not have noticed")
        .await;
    mesh.follows_the_edge("by the successor").await;
    // It has not heard anything yet, and all that it hears is that it is relieved.
    running.signal(Signal::CONT);
    running.says("another process has taken over").await;
    running.ended_well().await;
    mesh.ready().await;
    mesh.follows_the_edge("by the successor alone").await;
}
