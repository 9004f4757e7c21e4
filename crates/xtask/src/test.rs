//! Everything there is to test.

use crate::check;
use crate::run::{Failure, cargo, step};
use crate::servers::{self, CHROMIUM, NODE, NPM, PYTHON};
use crate::torture;

/// The checks, then the journeys through the real processes, then the proof that nothing is lost.
pub(crate) fn test() -> Result<(), Failure> {
    check::check(&[])?;
    for server in [&CHROMIUM, &NODE, &NPM, &PYTHON] {
        servers::ensure(server)?;
    }
    step("build", &mut cargo(&["build", "--workspace", "--bins"]))?;
    step("journeys", &mut cargo(&["test", "--package", "relay-tests"]))?;
    torture::short()
}
