//! The generated code is checked in, so that a build needs neither protoc nor a build script. This test
//! generates it again and compares; `UPDATE_EXPECT=1` rewrites it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

#[test]
fn the_generated_code_is_what_the_proto_file_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(["tombolo/feed/v1/feed.proto"], [root.join("proto")]).unwrap();
    let out = std::env::temp_dir().join(format!("tombolo-generated-{}", std::process::id()));
    fs::create_dir_all(&out).unwrap();
    tonic_prost_build::configure()
        .bytes(".tombolo.feed.v1.Resource.body")
        .bytes(".tombolo.feed.v1.Question.body")
        .bytes(".tombolo.feed.v1.Answer.body")
        .out_dir(&out)
        .compile_fds(descriptors)
        .unwrap();
    let generated = fs::read_to_string(out.join("tombolo.feed.v1.rs")).unwrap();
    fs::remove_dir_all(&out).unwrap();

    let checked_in = root.join("src/generated/feed.rs");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&checked_in, &generated).unwrap();
    }
    let differs = fs::read_to_string(&checked_in).ok().as_deref() != Some(generated.as_str());
    assert!(
        !differs,
        "{} is out of date: run with UPDATE_EXPECT=1",
        checked_in.display()
    );
}
