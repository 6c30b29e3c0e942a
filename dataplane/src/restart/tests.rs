#![allow(clippy::unwrap_used)]

use super::*;

#[tokio::test]
async fn more_sockets_than_one_message_takes_come_with_their_words() {
    let dir = tempfile::tempdir().unwrap();
    let door = Door::open(&path(dir.path())).unwrap();
    let asking = Link::connect(&path(dir.path())).unwrap();
    let (asked, said) = tokio::join!(door.accept(), asking.say(&Word::Ready, &[]));
    said.unwrap();
    let asked = asked.unwrap();
    assert_eq!(
        asked.of_own_user().unwrap(),
        i32::try_from(std::process::id()).unwrap()
    );
    assert!(matches!(asked.hear(ANSWER_MAX).await, Ok((Word::Ready, none)) if none.is_empty()));
    let sockets: Vec<TcpListener> = (0..DESCRIPTORS_MAX)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let given: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    asked.say(&Word::Sockets, &given).await.unwrap();
    asked.say(&Word::Yours, &[]).await.unwrap();
    drop(asked);
    let (word, come) = asking.hear(ANSWER_MAX).await.unwrap();
    assert_eq!(word, Word::Sockets);
    let come = come
        .into_iter()
        .map(|come| TcpListener::from(come).local_addr().unwrap());
    assert!(come.eq(sockets.iter().map(|socket| socket.local_addr().unwrap())));
    assert!(matches!(asking.hear(ANSWER_MAX).await, Ok((Word::Yours, _))));
    assert!(
        matches!(asking.hear(ANSWER_MAX).await, Err(RestartError::Link(error)) if error.kind() == io::ErrorKind::UnexpectedEof)
    );
}

#[tokio::test]
async fn nobody_is_there_before_a_proxy_runs_and_after_it_ended_or_crashed() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Predecessor::ask(dir.path()).await, Ok(None)));
    let door = Door::open(&path(dir.path())).unwrap();
    let mode = std::fs::metadata(path(dir.path())).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    let left_by_a_crash = dir.path().join("left");
    std::fs::hard_link(path(dir.path()), &left_by_a_crash).unwrap();
    drop(door);
    assert!(!path(dir.path()).exists());
    std::fs::rename(&left_by_a_crash, path(dir.path())).unwrap();
    assert!(matches!(Predecessor::ask(dir.path()).await, Ok(None)));
}

#[tokio::test]
async fn a_folder_is_one_proxys_while_it_is_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let take = || Lock::take(dir.path()).unwrap();
    let held = take().unwrap();
    assert!(take().is_none());
    let door = Door::open(&path(dir.path())).unwrap();
    let new = Link::connect(&path(dir.path())).unwrap();
    let old = door.accept().await.unwrap();
    old.say(&Word::State { sockets: 0 }, &[held.as_fd()])
        .await
        .unwrap();
    let (_, mut come) = new.hear(ANSWER_MAX).await.unwrap();
    let handed_over = come.pop().map(Lock::from).unwrap();
    drop(held);
    assert!(take().is_none(), "the new one has it");
    drop(handed_over);
    assert!(take().is_some(), "nobody has it");
}

#[tokio::test]
async fn a_path_that_no_socket_can_have_costs_the_take_over_only() {
    let dir = tempfile::tempdir().unwrap();
    let room = 107 - path(dir.path()).as_os_str().len() - "/".len();
    for (letters, fits) in [(room, true), (room + 1, false)] {
        let data_dir = dir.path().join("d".repeat(letters));
        std::fs::create_dir(&data_dir).unwrap();
        let offer = Offer::open(&data_dir);
        assert_eq!(offer.0.is_some(), fits, "{letters}");
        drop(offer);
        assert!(Lock::take(&data_dir).unwrap().is_some());
        match Predecessor::ask(&data_dir).await {
            Ok(None) => assert!(fits),
            Err(error @ RestartError::PathTooLong { .. }) => {
                assert!(!fits && error.to_string().contains("a data folder with a shorter path"));
            }
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
}

#[tokio::test]
async fn who_speaks_another_version_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let offer = Offer::open(dir.path());
    let asking = async {
        let link = Link::connect(&path(dir.path())).unwrap();
        link.say(&Word::TakeOver { version: 2 }, &[]).await.unwrap();
        link.hear(ANSWER_MAX).await.unwrap().0
    };
    let said = tokio::select! {
        _ = offer.next() => unreachable!("nobody is to be given way to"),
        said = asking => said,
    };
    let reason = "it speaks version 1, not 2, of the take-over".to_owned();
    assert_eq!(said, Word::No { reason });
}

#[tokio::test]
async fn a_configuration_passes_through_memory() {
    for bytes in [vec![], vec![7; 3_000_000]] {
        assert_eq!(read(memory(&bytes).unwrap()).unwrap(), bytes);
    }
}
