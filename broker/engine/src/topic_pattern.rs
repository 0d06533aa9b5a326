//! Topics by a pattern of their names, as NATS has it: tokens between dots, of which `*` stands for any one, and `>`, at the
//! end, for one or more. `photos.*` is `photos.raw` and not `photos.raw.old`; `photos.>` is both, and not `photos`.

use std::fmt;
use std::str::FromStr;

use crate::catalogue::NAME_BYTES_MAX;
use crate::request::RequestError;

const ANY_TOKEN: &str = "*";
const REST: &str = ">";

/// A pattern, checked. Topics of the broker's own are never meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPattern(Box<str>);

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Longer than any name.
    #[error("is longer than any topic's name: {bytes} bytes, of at most {NAME_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// `*` and `>` stand for whole tokens.
    #[error("has a `*` or a `>` within `{token}`: each stands for a whole part between dots")]
    WithinToken {
        /// The token.
        token: String,
    },
    /// What is behind `>` could never be looked at.
    #[error("goes on behind `>`, which stands for all the rest: write it last, or `*` for one part")]
    RestNotLast,
    /// No topic has it in its name.
    #[error("has `{token}`, which is in no topic's name: letters, digits, `.`, `_` and `-` are")]
    BadToken {
        /// The token.
        token: String,
    },
}

impl TopicPattern {
    /// Whether a text is meant as a pattern. No name is.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.contains(['*', '>'])
    }

    /// The pattern, or what goes to the client that sent it.
    ///
    /// # Errors
    /// [`RequestError::BadPattern`].
    pub fn checked(text: &str) -> Result<TopicPattern, RequestError> {
        let shown = || text.chars().take(60).collect();
        text.parse().map_err(|error| RequestError::BadPattern { pattern: shown(), error })
    }

    /// Whether it means the topic of this name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        if name.starts_with("__") {
            return false;
        }
        let mut tokens = name.split('.');
        for wanted in self.0.split('.') {
            match (wanted, tokens.next()) {
                (REST, token) => return token.is_some(),
                (_, None) => return false,
                (ANY_TOKEN, Some(_)) => {}
                (wanted, Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }
}

impl FromStr for TopicPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<TopicPattern, PatternError> {
        if text.len() > NAME_BYTES_MAX {
            return Err(PatternError::TooLong { bytes: text.len() });
        }
        let mut tokens = text.split('.').peekable();
        while let Some(token) = tokens.next() {
            let shown = || token.to_owned();
            match token {
                REST if tokens.peek().is_some() => return Err(PatternError::RestNotLast),
                REST | ANY_TOKEN => {}
                _ if token.contains(['*', '>']) => {
                    return Err(PatternError::WithinToken { token: shown() });
                }
                _ if !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)) => {
                    return Err(PatternError::BadToken { token: shown() });
                }
                _ => {}
            }
        }
        Ok(TopicPattern(text.into()))
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> TopicPattern {
        assert!(TopicPattern::is_meant(text));
        text.parse().unwrap()
    }

    #[test]
    fn a_star_is_one_token_and_an_arrow_the_rest() {
        for (text, means, not) in [
            ("*", &["photos", "a-b_c"][..], &["photos.raw", "__dead-letters", "a."][..]),
            (">", &["photos", "photos.raw.old"], &["__delayed.1.60000"]),
            (
                "photos.*",
                &["photos.raw", "photos."],
                &["photos", "photos.raw.old", "photo.raw", "photos_.raw"],
            ),
            ("photos.>", &["photos.raw", "photos.raw.old"], &["photos", "photosraw"]),
            ("*.raw.*", &["photos.raw.old"], &["photos.raw", "raw.raw", "photos.old.raw"]),
            ("*.*.>", &["a.b.c", "a.b.c.d"], &["a.b", "a"]),
            ("__dead-letters.>", &[], &["__dead-letters.1.2"]),
        ] {
            let pattern = pattern(text);
            means.iter().for_each(|name| assert!(pattern.matches(name), "{text} {name}"));
            not.iter().for_each(|name| assert!(!pattern.matches(name), "{text} {name}"));
        }
    }

    #[test]
    fn what_could_mean_nothing_is_refused_with_a_reason() {
        let refused = |text: &str| text.parse::<TopicPattern>().unwrap_err();
        assert_eq!(refused("photos.r*"), PatternError::WithinToken { token: "r*".to_owned() });
        assert_eq!(refused("photos>"), PatternError::WithinToken { token: "photos>".to_owned() });
        assert_eq!(refused("**"), PatternError::WithinToken { token: "**".to_owned() });
        assert_eq!(refused("photos.>.raw"), PatternError::RestNotLast);
        assert_eq!(refused("pho tos.*"), PatternError::BadToken { token: "pho tos".to_owned() });
        assert_eq!(refused("a/b.*"), PatternError::BadToken { token: "a/b".to_owned() });
        assert!(matches!(refused(&format!("{}.>", "x".repeat(250))), PatternError::TooLong { bytes: 252 }));
    }
}
