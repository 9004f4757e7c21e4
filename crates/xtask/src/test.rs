//! Everything there is to test.

use crate::check;
use crate::run::{Failure, cargo, step};
use crate::servers::{self, CHROMIUM, NODE};
use crate::torture;

/// The checks, then the journeys through the real processes, then the proof that nothing is lost.
pub(crate) fn test() -> Result<(), Failure> {
    check::check(&[])?;
    servers::ensure(&CHROMIUM)?;
    servers::ensure(&NODE)?;
    step("build", &mut cargo(&["build", "--workspace", "--bins"]))?;
    step("journeys", &mut cargo(&["test", "--package", "relay-tests"]))?;
    torture::short()
}
