//! The two pictures at the end of a run: a contact sheet and a plot of the scaling.

mod autoscale;
mod canvas;
mod sheet;

pub use autoscale::{PLOT_HEIGHT_PX, PLOT_WIDTH_PX, ScaleSample, autoscale_plot};
pub use sheet::{SHEET_ENTRIES_MAX, SheetEntry, contact_sheet, sheet_entries};
