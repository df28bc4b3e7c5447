//! The examples, as cargo built them beside the tests.

use std::path::PathBuf;

use tokio::process::Command;

/// An example, ended with this.
pub(crate) fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let path: PathBuf = tests.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join(name);
    // Cargo builds them for all of a crate's tests, and for none that is named.
    assert!(
        path.exists(),
        "the example {name} is not built, and this test runs it: cargo test -p tidings builds it, and so does \
         cargo build -p tidings --examples (with the --release of the test)"
    );
    let mut command = Command::new(path);
    command.kill_on_drop(true);
    command
}
