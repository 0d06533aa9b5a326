//! The settings of `dure serve`: flag > environment > file > default, each with where it came from.

mod settings;

use std::fmt;
use std::path::{Path, PathBuf};

pub use settings::{LogFormat, SETTINGS, ServeOptions, SettingSpec};

/// Where the value of a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The TOML file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag on the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// One setting as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name, as in the file; the flag is `--name` and the variable `DURE_NAME` with `_` for `-`.
    pub name: &'static str,
    /// Its value, as it would be written.
    pub value: String,
    /// Where that came from.
    pub origin: Origin,
    /// What it does, one line.
    pub help: &'static str,
}

/// Settings in force.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What `serve` takes.
    pub options: ServeOptions,
    /// Every setting in the order of [`SETTINGS`], for `dure config show`.
    pub settings: Vec<Setting>,
}

/// Why the settings are refused. Each names the setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {why}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not valid TOML: {why}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        why: String,
    },
    /// No such setting.
    #[error("unknown setting `{key}` in {origin}: did you mean `{nearest}`?")]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it stands.
        origin: Origin,
        /// The known one that is spelled most like it.
        nearest: &'static str,
    },
    /// The value cannot be used.
    #[error("bad value for `{name}` ({origin}): {why}")]
    BadValue {
        /// The setting.
        name: &'static str,
        /// Where it was set.
        origin: Origin,
        /// What is wrong and what is expected.
        why: String,
    },
    /// An address that others can reach, without authentication.
    #[error(
        "`{name}` is {address}, which other machines can reach, and no authentication is configured: listen on a \
         loopback address, or give --insecure"
    )]
    NotLoopback {
        /// The setting.
        name: &'static str,
        /// Its value.
        address: std::net::SocketAddr,
    },
    /// Too little is kept for what goes on when the disk is full.
    #[error(
        "`reserve` is {reserve_bytes} bytes, and acking and deleting need four journal pieces of {piece_bytes} bytes: \
         give at least {}, or a smaller `journal-piece`, or 0 for no reserve at all", 4 * .piece_bytes
    )]
    SmallReserve {
        /// What is set.
        reserve_bytes: u64,
        /// The setting `journal-piece`.
        piece_bytes: u64,
    },
}

/// Resolves the settings of `dure serve`.
///
/// `flags` are names (without `--`) and values as typed, a switch being `true`; `env` is the whole environment;
/// `file` is what `--config` or `DURE_CONFIG` names.
pub fn resolve(
    flags: &[(&str, String)],
    env: impl IntoIterator<Item = (String, String)>,
    file: Option<&Path>,
) -> Result<Resolved, ConfigError> {
    let file = file.map(|path| read_file(path).map(|table| (path, table))).transpose()?;
    let env: std::collections::HashMap<String, String> = env.into_iter().collect();
    let mut options = ServeOptions::default();
    let mut settings = Vec::with_capacity(SETTINGS.len());
    for (key, _) in flags {
        known(key, &Origin::Flag((*key).to_owned()))?;
    }
    for spec in SETTINGS {
        let variable = format!("DURE_{}", spec.name.to_uppercase().replace('-', "_"));
        let flag = flags.iter().rev().find(|(name, _)| *name == spec.name);
        let from_file = || {
            let (path, table) = file.as_ref()?;
            Some((table.get(spec.name)?.clone(), Origin::File((*path).to_owned())))
        };
        let set = flag
            .map(|(name, value)| (value.clone(), Origin::Flag((*name).to_owned())))
            .or_else(|| {
                env.get(&variable).map(|value| (value.clone(), Origin::Environment(variable.clone())))
            })
            .or_else(from_file);
        let origin = match set {
            None => Origin::Default,
            Some((value, origin)) => {
                (spec.set)(&mut options, &value).map_err(|why| ConfigError::BadValue {
                    name: spec.name,
                    origin: origin.clone(),
                    why,
                })?;
                origin
            }
        };
        settings.push(Setting { name: spec.name, value: (spec.show)(&options), origin, help: spec.help });
    }
    options.check()?;
    Ok(Resolved { options, settings })
}

/// The values of a file by key, as they would be typed.
fn read_file(path: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let unreadable = |why: String| ConfigError::Unreadable { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
    parse_file(path, &text)
}

pub(crate) fn parse_file(path: &Path, text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let table: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| ConfigError::Syntax { path: path.to_owned(), why: e.to_string() })?;
    let origin = Origin::File(path.to_owned());
    let typed = |(key, value): (String, toml::Value)| {
        let spec = known(&key, &origin)?;
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(switch) => switch.to_string(),
            toml::Value::Array(items) if items.iter().all(toml::Value::is_str) => {
                items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
            }
            other => {
                let why = format!("expected text, a number, true or false, not a TOML {}", other.type_str());
                return Err(ConfigError::BadValue { name: spec.name, origin: origin.clone(), why });
            }
        };
        Ok((key, value))
    };
    table.into_iter().map(typed).collect()
}

/// A tiny lookup so that a file's values read like a map.
trait Lookup {
    fn get(&self, key: &str) -> Option<&String>;
}

impl Lookup for Vec<(String, String)> {
    fn get(&self, key: &str) -> Option<&String> {
        self.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

fn known(key: &str, origin: &Origin) -> Result<&'static SettingSpec, ConfigError> {
    SETTINGS.iter().find(|spec| spec.name == key).ok_or_else(|| ConfigError::UnknownKey {
        key: key.to_owned(),
        origin: origin.clone(),
        nearest: nearest(key, SETTINGS.iter().map(|spec| spec.name)).unwrap_or_default(),
    })
}

/// The candidate that is the fewest edits away from `word`.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates.min_by_key(|candidate| edits(word, candidate))
}

/// Levenshtein's distance, in characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replace = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn shown(resolved: &Resolved, name: &str) -> (String, Origin) {
        let setting = resolved.settings.iter().find(|s| s.name == name).unwrap();
        (setting.value.clone(), setting.origin.clone())
    }

    #[test]
    fn a_flag_goes_before_the_environment_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dure.toml");
        std::fs::write(
            &path,
            "listen = '127.0.0.1:1'\nhttp = '127.0.0.1:2'\ndata = 'file'\nconnections-max = 7\n",
        )
        .unwrap();
        let env = env(&[("DURE_LISTEN", "127.0.0.1:3"), ("DURE_HTTP", "127.0.0.1:4"), ("HOME", "/")]);
        let resolved = resolve(&[("listen", "127.0.0.1:5".to_owned())], env, Some(&path)).unwrap();
        assert_eq!(shown(&resolved, "listen"), ("127.0.0.1:5".into(), Origin::Flag("listen".into())));
        assert_eq!(shown(&resolved, "http"), ("127.0.0.1:4".into(), Origin::Environment("DURE_HTTP".into())));
        assert_eq!(shown(&resolved, "data"), ("file".into(), Origin::File(path.clone())));
        assert_eq!(shown(&resolved, "log-format").1, Origin::Default);
        assert_eq!(resolved.options.connections_max, 7);
    }

    #[test]
    fn an_unknown_key_names_the_nearest_one() {
        let error = parse_file(Path::new("x.toml"), "conections-max = 3").unwrap_err();
        assert!(matches!(&error, ConfigError::UnknownKey { nearest: "connections-max", .. }), "{error}");
        assert!(resolve(&[("lisen", String::new())], [], None).unwrap_err().to_string().contains("`listen`"));
    }

    #[test]
    fn a_bad_value_names_its_field() {
        for (name, value) in [("listen", "localhost"), ("connections-max", "-1"), ("log-format", "xml")] {
            let error = resolve(&[(name, value.to_owned())], [], None).unwrap_err();
            assert!(matches!(&error, ConfigError::BadValue { name: field, .. } if *field == name), "{error}");
        }
        assert!(matches!(parse_file(Path::new("x"), "data = [1]"), Err(ConfigError::BadValue { .. })));
        assert!(matches!(parse_file(Path::new("x"), "data ="), Err(ConfigError::Syntax { .. })));
    }

    #[test]
    fn other_machines_are_let_in_only_if_insecure_is_said() {
        let outside = ("listen", "0.0.0.0:7650".to_owned());
        let refused = resolve(std::slice::from_ref(&outside), [], None).unwrap_err();
        assert!(matches!(refused, ConfigError::NotLoopback { name: "listen", .. }));
        assert!(resolve(&[outside, ("insecure", "true".to_owned())], [], None).is_ok());
    }

    #[test]
    fn a_reserve_that_would_not_do_is_refused() {
        let small = ("reserve", "100MiB".to_owned());
        let refused = resolve(std::slice::from_ref(&small), [], None).unwrap_err();
        assert!(matches!(refused, ConfigError::SmallReserve { .. }), "{refused}");
        assert!(resolve(&[small, ("journal-piece", "16MiB".to_owned())], [], None).is_ok());
        assert!(resolve(&[("reserve", "0".to_owned())], [], None).is_ok());
    }

    #[test]
    fn every_setting_shows_what_it_reads() {
        for setting in resolve(&[], [], None).unwrap().settings {
            let again = resolve(&[(setting.name, setting.value.clone())], [], None).unwrap();
            assert_eq!(shown(&again, setting.name).0, setting.value);
        }
    }
}
