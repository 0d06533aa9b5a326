//! The photos of a folder, and jobs made of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use photo_pipeline::{FileError, Job, Ops, OutputFormat, Quality, Store};

use super::failure::Failure;

/// Files with these extensions are taken, in any case.
const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];
/// Directories within directories; a bound for folders that contain themselves through mounts.
const DEPTH_MAX: usize = 64;

/// Finds the photos of a folder and of those within it, in the order of their names. What is hidden is left out,
/// and so is `except`: the results of an earlier run are no photos.
pub(crate) fn photos_in(folder: &Path, except: &Path) -> Result<Vec<PathBuf>, Failure> {
    let shown = folder.display();
    match fs::metadata(folder) {
        Ok(found) if !found.is_dir() => {
            return Err(Failure::failed(format!(
                "{shown} is no directory: name the one that the photos are in"
            )));
        }
        Ok(_) => {}
        Err(error) => {
            return Err(Failure::failed(format!(
                "cannot open the directory {shown}: {error}; name the one that the photos are in"
            )));
        }
    }
    let except = fs::canonicalize(except).ok();
    let mut photos = Vec::new();
    walk(folder, except.as_deref(), DEPTH_MAX, &mut photos)?;
    if photos.is_empty() {
        let extensions = EXTENSIONS.map(|extension| format!(".{extension}")).join(", ");
        return Err(Failure::failed(format!(
            "no photos in {shown}: files that end in {extensions} are taken, also from directories within"
        )));
    }
    photos.sort();
    Ok(photos)
}

fn walk(dir: &Path, except: Option<&Path>, depth: usize, photos: &mut Vec<PathBuf>) -> Result<(), FileError> {
    let fail = |action, source| FileError { action, path: dir.to_path_buf(), source };
    for entry in fs::read_dir(dir).map_err(|e| fail("read the directory", e))? {
        let entry = entry.map_err(|e| fail("read the directory", e))?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let kind = entry.file_type().map_err(|e| fail("look into", e))?;
        // A link to a directory may lead back up; one to a file is as good as the file.
        if kind.is_dir() {
            let excepted = except.is_some() && fs::canonicalize(&path).ok().as_deref() == except;
            if depth > 0 && !excepted {
                walk(&path, except, depth - 1, photos)?;
            }
        } else if is_photo(&path) && path.is_file() {
            photos.push(path);
        }
    }
    Ok(())
}

fn is_photo(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|found| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(found)))
}

/// Puts the photos into the store and makes a job of each. `stored` is called after each.
pub(crate) fn store_photos(
    store: &Store,
    folder: &Path,
    photos: &[PathBuf],
    ops: &Ops,
    mut stored: impl FnMut(),
) -> Result<Vec<Job>, Failure> {
    let mut names = BTreeSet::new();
    let mut jobs = Vec::with_capacity(photos.len());
    for path in photos {
        let photo = store.put_file(path)?;
        let input =
            unused(path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned(), &mut names);
        let (format, quality) = (OutputFormat::default(), Quality::default());
        jobs.push(Job { photo, input, ops: ops.clone(), format, quality });
        stored();
    }
    Ok(jobs)
}

/// Two file names that differ only in what is no UTF-8 would become one, and their jobs perhaps as well.
fn unused(name: String, names: &mut BTreeSet<String>) -> String {
    let candidates = (2..).map(|number| format!("{name} ({number})"));
    let free = std::iter::once(name.clone()).chain(candidates).find(|candidate| !names.contains(candidate));
    let free = free.expect("there are more numbers than files");
    names.insert(free.clone());
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path, except: &Path) -> Vec<String> {
        let photos = photos_in(folder, except).unwrap();
        photos.iter().map(|p| p.strip_prefix(folder).unwrap().display().to_string()).collect()
    }

    #[test]
    fn folders_are_searched_but_not_the_results_nor_what_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in ["b.JPG", "a/c.jpeg", "a/notes.txt", "out/d.jpg", ".hidden/e.jpg", ".f.jpg", "g.png"] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), b"x").unwrap();
        }
        std::os::unix::fs::symlink(root, root.join("a/loop")).unwrap();
        assert_eq!(names(root, &root.join("out")), ["a/c.jpeg", "b.JPG", "g.png"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = |path: &Path| photos_in(path, path).unwrap_err().to_string();
        assert!(error(dir.path()).contains("no photos in"));
        assert!(error(&dir.path().join("nowhere")).contains("cannot open the directory"));
        fs::write(dir.path().join("file"), b"x").unwrap();
        assert!(error(&dir.path().join("file")).contains("is no directory"));
    }

    #[test]
    fn names_that_look_the_same_are_told_apart() {
        let mut names = BTreeSet::new();
        let given = ["a", "a", "a (2)"].map(|name| unused(name.into(), &mut names));
        assert_eq!(given, ["a", "a (2)", "a (2) (2)"]);
    }
}
