//! The configuration file, and each of its values.

use dure_broker::{SETTINGS, fuzzing, resolve};

pub(super) fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match fuzzing::configuration(text) {
        Ok(values) => {
            let flags: Vec<(&str, String)> =
                values.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            let Ok(resolved) = resolve(&flags, [], None) else { return };
            // What is shown is what would be read.
            for setting in &resolved.settings {
                let again = resolve(&[insecure(), (setting.name, setting.value.clone())], [], None);
                let again = again.unwrap_or_else(|error| panic!("{} is shown as {error}", setting.name));
                let shown = again.settings.iter().find(|found| found.name == setting.name).map(|s| &s.value);
                assert_eq!(shown, Some(&setting.value), "{}", setting.name);
            }
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
        }
    }
    // The same text as the value of each setting.
    for spec in SETTINGS {
        if let Err(error) = resolve(&[(spec.name, text.to_owned())], [], None) {
            assert!(error.to_string().contains(spec.name), "{error} does not name {}", spec.name);
        }
    }
}

/// Before the value that is looked at, so that any address is one.
fn insecure() -> (&'static str, String) {
    ("insecure", "true".to_owned())
}
