//! One cycle of every fault of the campaign `faults`. What cannot be had on this machine is said and passes.

use dure_tests::faults::campaign::{names, run};

#[test]
fn one_cycle_of_every_fault_breaks_no_promise() {
    let mut broken = Vec::new();
    for name in names() {
        let report = run(name, 1, 1);
        eprintln!("{report}");
        broken.extend(report.violations);
    }
    assert!(broken.is_empty(), "{}", broken.concat());
}
