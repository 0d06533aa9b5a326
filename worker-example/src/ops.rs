//! The operations of a job: `crop=0.8,blur=2,sharpen=1,resize=1200`.
//!
//! ```text
//! ops   = step *( "," step )                  at most OPS_STEPS_MAX steps, applied as written
//! step  = "crop="    F                        centred fraction of width and height, 0 < F <= 1
//!       | "crop="    W "x" H "+" X "+" Y      a rectangle, in pixels of the picture at that step
//!       | "blur="    SIGMA                    Gaussian, in pixels
//!       | "sharpen=" AMOUNT                   unsharp mask, 1 adds the lost detail once
//!       | "resize="  LONGEST_EDGE             in pixels, enlarges too
//! ```
//!
//! Numbers are plain decimals (`0.8`, `2`): no sign, no exponent. Blanks around a step are ignored.
//! [`Display`](fmt::Display) writes the canonical form, which parses back to the same value; the
//! identity of a job is derived from it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest edge, in pixels, that an operation may name.
pub const EDGE_PX_MAX: u32 = 20_000;
/// Smallest and largest Gaussian sigma, in pixels. Below the smallest the kernel is a no-op.
pub const SIGMA_PX: (f64, f64) = (0.1, 100.0);
/// Smallest and largest sharpening amount. Below the smallest no 8-bit value would change.
pub const AMOUNT: (f64, f64) = (0.01, 10.0);
/// Most steps in one string.
pub const OPS_STEPS_MAX: usize = 32;
/// Longest string that is looked at, in bytes.
pub const OPS_BYTES_MAX: usize = 2048;

/// One operation. Its numbers are within bounds by construction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// Keeps the centred fraction of width and height.
    CropFraction(Fraction),
    /// Keeps a rectangle.
    CropRect(Rect),
    /// Blurs with a Gaussian.
    Blur(Sigma),
    /// Sharpens with an unsharp mask.
    Sharpen(Amount),
    /// Scales so that the longest edge has this length.
    Resize(LongestEdge),
}

macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident($inner:ty), $problem:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
        pub struct $name($inner);

        impl $name {
            /// Takes a value that is within bounds; otherwise says which bound it misses.
            pub fn new(value: $inner) -> Result<Self, OpsProblem> {
                let within: fn($inner) -> bool = $check;
                if within(value) { Ok(Self(value)) } else { Err(OpsProblem::$problem) }
            }

            /// The value.
            pub fn get(self) -> $inner {
                self.0
            }
        }
    };
}

bounded!(
    /// A fraction of width and height, above 0 and at most 1.
    Fraction(f64), Fraction, |f| f > 0.0 && f <= 1.0
);
bounded!(
    /// The sigma of a Gaussian in pixels, within [`SIGMA_PX`].
    Sigma(f64), Sigma, |s| (SIGMA_PX.0..=SIGMA_PX.1).contains(&s)
);
bounded!(
    /// How much of the lost detail is added, within [`AMOUNT`].
    Amount(f64), Amount, |a| (AMOUNT.0..=AMOUNT.1).contains(&a)
);
bounded!(
    /// Length of the longest edge in pixels, 1 to [`EDGE_PX_MAX`].
    LongestEdge(u32), Edge, |e| (1..=EDGE_PX_MAX).contains(&e)
);

/// A rectangle in pixels; width and height are 1 to [`EDGE_PX_MAX`], the corner at most that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    width: u32,
    height: u32,
    x: u32,
    y: u32,
}

impl Rect {
    /// Takes the size and the upper left corner.
    pub fn new(width: u32, height: u32, x: u32, y: u32) -> Result<Self, OpsProblem> {
        let size_fits = [width, height].iter().all(|e| (1..=EDGE_PX_MAX).contains(e));
        if size_fits && x <= EDGE_PX_MAX && y <= EDGE_PX_MAX {
            Ok(Self { width, height, x, y })
        } else {
            Err(OpsProblem::Rect)
        }
    }

    /// Width in pixels.
    pub fn width(self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(self) -> u32 {
        self.height
    }

    /// Distance of the left edge from that of the picture.
    pub fn x(self) -> u32 {
        self.x
    }

    /// Distance of the upper edge from that of the picture.
    pub fn y(self) -> u32 {
        self.y
    }
}

impl fmt::Display for Rect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}+{}+{}", self.width, self.height, self.x, self.y)
    }
}

/// Operations in the order in which they are applied: at least one, at most [`OPS_STEPS_MAX`].
#[derive(Debug, Clone, PartialEq)]
pub struct Ops(Vec<Op>);

impl Ops {
    /// Takes operations that were put together by a program.
    pub fn new(ops: Vec<Op>) -> Result<Self, OpsError> {
        match ops.len() {
            0 => Err(OpsError::whole(OpsProblem::Empty)),
            1..=OPS_STEPS_MAX => Ok(Self(ops)),
            _ => Err(OpsError::whole(OpsProblem::TooManySteps)),
        }
    }

    /// The operations, first to last.
    pub fn as_slice(&self) -> &[Op] {
        &self.0
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `f64` is displayed with the fewest digits that parse back to it and never with an
        // exponent, which is just the grammar above.
        match self {
            Op::CropFraction(fraction) => write!(f, "crop={}", fraction.get()),
            Op::CropRect(rect) => write!(f, "crop={rect}"),
            Op::Blur(sigma) => write!(f, "blur={}", sigma.get()),
            Op::Sharpen(amount) => write!(f, "sharpen={}", amount.get()),
            Op::Resize(edge) => write!(f, "resize={}", edge.get()),
        }
    }
}

impl fmt::Display for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, op) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            op.fmt(f)?;
        }
        Ok(())
    }
}

impl FromStr for Ops {
    type Err = OpsError;

    fn from_str(text: &str) -> Result<Self, OpsError> {
        if text.len() > OPS_BYTES_MAX {
            return Err(OpsError::whole(OpsProblem::TooLong));
        }
        if text.trim().is_empty() {
            return Err(OpsError::whole(OpsProblem::Empty));
        }
        if text.split(',').count() > OPS_STEPS_MAX {
            return Err(OpsError::whole(OpsProblem::TooManySteps));
        }
        let parse = |(i, step): (usize, &str)| {
            let step = step.trim();
            parse_step(step).map_err(|problem| OpsError {
                position: i + 1,
                step: step.chars().take(60).collect(),
                problem,
            })
        };
        text.split(',').enumerate().map(parse).collect::<Result<_, _>>().map(Self)
    }
}

fn parse_step(step: &str) -> Result<Op, OpsProblem> {
    if step.is_empty() {
        return Err(OpsProblem::EmptyStep);
    }
    let (name, value) = step.split_once('=').unwrap_or((step, ""));
    match name {
        "crop" if value.contains(['x', '+']) => parse_rect(value).map(Op::CropRect),
        "crop" => {
            let f = decimal(value).ok_or(OpsProblem::Fraction)?;
            Fraction::new(f).map(Op::CropFraction)
        }
        "blur" => Sigma::new(decimal(value).ok_or(OpsProblem::Sigma)?).map(Op::Blur),
        "sharpen" => Amount::new(decimal(value).ok_or(OpsProblem::Amount)?).map(Op::Sharpen),
        "resize" => LongestEdge::new(integer(value).ok_or(OpsProblem::Edge)?).map(Op::Resize),
        _ => Err(OpsProblem::UnknownName),
    }
}

fn parse_rect(value: &str) -> Result<Rect, OpsProblem> {
    let parts = || {
        let (width, rest) = value.split_once('x')?;
        let (height, corner) = rest.split_once('+')?;
        let (x, y) = corner.split_once('+')?;
        Some([integer(width)?, integer(height)?, integer(x)?, integer(y)?])
    };
    let [width, height, x, y] = parts().ok_or(OpsProblem::Rect)?;
    Rect::new(width, height, x, y)
}

/// Reads digits with at most one point between them. `f64::from_str` alone would take `inf`, `NaN`,
/// `-0` and `1e-3`, none of which a user means here.
fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if plain { text.parse().ok() } else { None }
}

fn integer(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

impl Serialize for Ops {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ops {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Why a string of operations was refused: which step, what is wrong, what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpsError {
    /// The step, counted from 1; 0 where the string as a whole is meant.
    pub position: usize,
    /// The step as written (its first 60 characters).
    pub step: String,
    /// What is wrong with it.
    pub problem: OpsProblem,
}

impl OpsError {
    fn whole(problem: OpsProblem) -> Self {
        Self { position: 0, step: String::new(), problem }
    }
}

impl fmt::Display for OpsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.position == 0 {
            return write!(f, "ops: {}", self.problem);
        }
        write!(f, "ops, step {} `{}`: {}", self.position, self.step, self.problem)
    }
}

impl std::error::Error for OpsError {}

/// What is wrong with a step, or with the string as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpsProblem {
    /// Nothing but blanks.
    #[error("there is no operation; write at least one, such as `crop=0.8`")]
    Empty,
    /// Two commas in a row, or one at an end.
    #[error("there is nothing between two commas; leave one comma out")]
    EmptyStep,
    /// More than [`OPS_BYTES_MAX`] bytes.
    #[error("the text is longer than {OPS_BYTES_MAX} bytes; shorten it")]
    TooLong,
    /// More than [`OPS_STEPS_MAX`] steps.
    #[error("there are more than {OPS_STEPS_MAX} steps; leave some out")]
    TooManySteps,
    /// Not the name of an operation.
    #[error(
        "no such operation; write crop=F, crop=WxH+X+Y, blur=SIGMA, sharpen=AMOUNT or resize=LONGEST_EDGE"
    )]
    UnknownName,
    /// Not a fraction above 0 and at most 1.
    #[error("a crop takes a fraction above 0 and at most 1, such as `crop=0.8`, or `crop=WxH+X+Y`")]
    Fraction,
    /// Not a rectangle within bounds.
    #[error(
        "a crop takes WxH+X+Y in whole pixels, W and H from 1 to {EDGE_PX_MAX}, X and Y from 0, such as `crop=640x480+10+20`"
    )]
    Rect,
    /// Not a sigma within [`SIGMA_PX`].
    #[error("a blur takes a sigma from {} to {} pixels, such as `blur=2`; for none leave the step out", SIGMA_PX.0, SIGMA_PX.1)]
    Sigma,
    /// Not an amount within [`AMOUNT`].
    #[error("a sharpen takes an amount from {} to {}, such as `sharpen=1`; for none leave the step out", AMOUNT.0, AMOUNT.1)]
    Amount,
    /// Not an edge of 1 to [`EDGE_PX_MAX`] pixels.
    #[error(
        "a resize takes the longest edge in whole pixels, from 1 to {EDGE_PX_MAX}, such as `resize=1200`"
    )]
    Edge,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_the_interface_shows() {
        let ops: Ops = "crop=0.8,blur=2,sharpen=1,resize=1200".parse().unwrap();
        assert_eq!(ops.to_string(), "crop=0.8,blur=2,sharpen=1,resize=1200");
        let ops: Ops = " resize=007 , crop=640x480+10+20,crop=1.0,blur=.50".parse().unwrap();
        assert_eq!(ops.to_string(), "resize=7,crop=640x480+10+20,crop=1,blur=0.5");
    }

    #[test]
    fn refuses_bad_input_and_says_where() {
        use OpsProblem::*;
        let long = "9".repeat(OPS_BYTES_MAX + 1);
        let many = ["blur=1"; OPS_STEPS_MAX + 1].join(",");
        let table = [
            ("", 0, Empty),
            ("  ", 0, Empty),
            (long.as_str(), 0, TooLong),
            (many.as_str(), 0, TooManySteps),
            ("crop=0.5,,blur=1", 2, EmptyStep),
            ("crop=0.5,", 2, EmptyStep),
            ("rotate=90", 1, UnknownName),
            ("Crop=0.5", 1, UnknownName),
            ("crop =0.5", 1, UnknownName),
            ("crop", 1, Fraction),
            ("crop=", 1, Fraction),
            ("crop=0", 1, Fraction),
            ("crop=-0.5", 1, Fraction),
            ("crop=1.01", 1, Fraction),
            ("crop=NaN", 1, Fraction),
            ("crop=inf", 1, Fraction),
            ("crop=1e-1", 1, Fraction),
            ("crop=.", 1, Fraction),
            ("crop=0.5.5", 1, Fraction),
            ("crop=0,5", 1, Fraction),
            ("crop=10x10", 1, Rect),
            ("crop=10x10+1", 1, Rect),
            ("crop=10x10+1+1+1", 1, Rect),
            ("crop=0x10+1+1", 1, Rect),
            ("crop=10x-1+1+1", 1, Rect),
            ("crop=10x10+-1+1", 1, Rect),
            ("crop=20001x10+0+0", 1, Rect),
            ("crop=10x10+99999999999+0", 1, Rect),
            ("crop=1.5x10+0+0", 1, Rect),
            ("blur=0", 1, Sigma),
            ("blur=-2", 1, Sigma),
            ("blur=nan", 1, Sigma),
            ("blur=100.1", 1, Sigma),
            ("crop=0.5,blur=1=2", 2, Sigma),
            ("sharpen=0", 1, Amount),
            ("sharpen=11", 1, Amount),
            ("sharpen=infinity", 1, Amount),
            ("resize=0", 1, Edge),
            ("resize=1.5", 1, Edge),
            ("resize=20001", 1, Edge),
            ("resize=4294967297", 1, Edge),
            ("resize=+5", 1, Edge),
            ("resize=800x600", 1, Edge),
        ];
        for (text, position, problem) in table {
            let error = text.parse::<Ops>().expect_err(text);
            assert_eq!((error.position, error.problem), (position, problem), "{text}");
        }
    }

    #[test]
    fn error_says_what_where_and_what_to_do() {
        let error = "crop=0.5,blur=-1".parse::<Ops>().unwrap_err().to_string();
        assert_eq!(
            error,
            "ops, step 2 `blur=-1`: a blur takes a sigma from 0.1 to 100 pixels, such as `blur=2`; \
             for none leave the step out"
        );
    }

    #[test]
    fn serde_uses_the_string() {
        let ops: Ops = "blur=2,crop=1x2+3+4".parse().unwrap();
        let json = serde_json::to_string(&ops).unwrap();
        assert_eq!(json, "\"blur=2,crop=1x2+3+4\"");
        assert_eq!(serde_json::from_str::<Ops>(&json).unwrap(), ops);
        let error = serde_json::from_str::<Ops>("\"blur=0\"").unwrap_err().to_string();
        assert!(error.contains("step 1 `blur=0`"), "{error}");
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let edge = 1..=EDGE_PX_MAX;
        let corner = 0..=EDGE_PX_MAX;
        prop_oneof![
            (f64::MIN_POSITIVE..=1.0).prop_map(|f| Op::CropFraction(Fraction::new(f).unwrap())),
            (edge.clone(), edge.clone(), corner.clone(), corner)
                .prop_map(|(w, h, x, y)| Op::CropRect(Rect::new(w, h, x, y).unwrap())),
            (SIGMA_PX.0..=SIGMA_PX.1).prop_map(|s| Op::Blur(Sigma::new(s).unwrap())),
            (AMOUNT.0..=AMOUNT.1).prop_map(|a| Op::Sharpen(Amount::new(a).unwrap())),
            edge.prop_map(|e| Op::Resize(LongestEdge::new(e).unwrap())),
        ]
    }

    proptest! {
        #[test]
        fn canonical_form_parses_back(ops in prop::collection::vec(any_op(), 1..=OPS_STEPS_MAX)) {
            let ops = Ops::new(ops).unwrap();
            let text = ops.to_string();
            if text.len() <= OPS_BYTES_MAX {
                let again: Ops = text.parse().unwrap();
                prop_assert_eq!(&again, &ops);
                prop_assert_eq!(again.to_string(), text);
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let _ = text.parse::<Ops>();
        }

        #[test]
        fn no_almost_valid_text_panics(text in "(crop|blur|sharpen|resize)=[0-9.x+e,=-]{0,20}") {
            if let Ok(ops) = text.parse::<Ops>() {
                prop_assert_eq!(ops.to_string().parse::<Ops>().unwrap(), ops);
            }
        }
    }
}
