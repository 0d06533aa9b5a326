//! The directory tree: inodes, and for every directory its entries as seen and as durable.
//!
//! A change of an entry is pending until its directory is synced. A rename is one change, and so atomic. In a crash
//! the pending changes survive independently of each other, but for those of one name, which survive in their order
//! (no journaling file system forgets a file's creation and remembers its rename).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::content::Content;
use super::{Survival, Unsynced, UnsyncedPart};

pub(super) type Ino = u64;
const ROOT: Ino = 1;

#[derive(Clone, Debug)]
pub(super) struct Tree {
    inodes: BTreeMap<Ino, Inode>,
    /// In the order they were made; every target is an inode in `inodes`.
    pending: Vec<EntryChange>,
    next_ino: Ino,
    /// Orders every unsynced thing of the disk.
    pub(super) next_seq: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Inode {
    /// The last path it was given, for reports.
    pub(super) path: Arc<str>,
    pub(super) node: Node,
    /// Handles of the running process.
    pub(super) open: u32,
    /// Failed write-backs so far; a handle reports the ones that came after it was opened, once.
    pub(super) failed_syncs: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    File(Content),
    Dir { cached: Entries, durable: Entries },
}

type Entries = BTreeMap<String, Ino>;
type Place = (Ino, String);

#[derive(Clone, Debug)]
struct EntryChange {
    seq: u64,
    path: Arc<str>,
    unlink: Option<Place>,
    link: Option<(Place, Ino)>,
}

impl EntryChange {
    /// The directory whose sync makes it durable.
    fn home(&self) -> Ino {
        let place = self.link.as_ref().map(|(place, _)| place).or(self.unlink.as_ref());
        place.expect("a change links or unlinks").0
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.unlink.iter().chain(self.link.iter().map(|(place, _)| place))
    }
}

impl Tree {
    pub(super) fn new() -> Tree {
        let inodes = BTreeMap::from([(ROOT, Inode::new("", Node::new_dir()))]);
        Tree { inodes, pending: Vec::new(), next_ino: ROOT + 1, next_seq: 1 }
    }

    pub(super) fn inode(&self, ino: Ino) -> &Inode {
        &self.inodes[&ino]
    }

    pub(super) fn inode_mut(&mut self, ino: Ino) -> &mut Inode {
        self.inodes.get_mut(&ino).expect("an open file keeps its inode")
    }

    /// The content of a file, and the counter that orders its changes.
    pub(super) fn content_mut(&mut self, ino: Ino) -> (&mut Content, &mut u64) {
        match &mut self.inodes.get_mut(&ino).expect("an open file keeps its inode").node {
            Node::File(content) => (content, &mut self.next_seq),
            Node::Dir { .. } => panic!("directories are not opened"),
        }
    }

    pub(super) fn content(&self, ino: Ino) -> &Content {
        match &self.inode(ino).node {
            Node::File(content) => content,
            Node::Dir { .. } => panic!("directories are not opened"),
        }
    }

    pub(super) fn is_dir(&self, ino: Ino) -> bool {
        matches!(self.inode(ino).node, Node::Dir { .. })
    }

    pub(super) fn entries(&self, dir: Ino) -> io::Result<&Entries> {
        match &self.inodes[&dir].node {
            Node::Dir { cached, .. } => Ok(cached),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub(super) fn lookup(&self, path: &str) -> io::Result<Ino> {
        let mut at = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = *self.entries(at)?.get(name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    pub(super) fn lookup_file(&self, path: &str) -> io::Result<Ino> {
        let ino = self.lookup(path)?;
        if self.is_dir(ino) { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(ino) }
    }

    /// The directory that holds `path`, which need not exist, and its name in there.
    fn place(&self, path: &str) -> io::Result<Place> {
        if path.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.lookup(dir)?;
        self.entries(dir)?;
        Ok((dir, name.to_owned()))
    }

    fn find(&self, place: &Place) -> io::Result<Option<Ino>> {
        Ok(self.entries(place.0)?.get(&place.1).copied())
    }

    pub(super) fn create_file(&mut self, path: &str) -> io::Result<Ino> {
        let place = self.place(path)?;
        if self.find(&place)?.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(self.create(place, path, Node::File(Content::default())))
    }

    pub(super) fn create_dir_all(&mut self, path: &str) -> io::Result<()> {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends.filter(|end| *end > 0) {
            let place = self.place(&path[..end])?;
            match self.find(&place)? {
                None => _ = self.create(place, &path[..end], Node::new_dir()),
                Some(ino) if self.is_dir(ino) => {}
                Some(_) if end == path.len() => return Err(io::ErrorKind::AlreadyExists.into()),
                Some(_) => return Err(io::ErrorKind::NotADirectory.into()),
            }
        }
        Ok(())
    }

    fn create(&mut self, place: Place, path: &str, node: Node) -> Ino {
        let ino = self.next_ino;
        self.next_ino += 1;
        self.inodes.insert(ino, Inode::new(path, node));
        self.change(path, None, Some((place, ino)));
        ino
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let (source, target) = (self.place(from)?, self.place(to)?);
        let moved = self.find(&source)?.ok_or(io::ErrorKind::NotFound)?;
        if self.is_dir(moved) && to.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if from.strip_prefix(to).is_some_and(|rest| rest.starts_with('/')) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        if let Some(replaced) = self.find(&target)? {
            match (self.is_dir(moved), self.is_dir(replaced)) {
                _ if moved == replaced => return Ok(()),
                (false, true) => return Err(io::ErrorKind::IsADirectory.into()),
                (true, false) => return Err(io::ErrorKind::NotADirectory.into()),
                (true, true) if !self.entries(replaced)?.is_empty() => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                _ => {}
            }
        }
        self.inode_mut(moved).path = to.into();
        self.change(to, Some(source), Some((target, moved)));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &str) -> io::Result<()> {
        self.lookup_file(path)?;
        let place = self.place(path)?;
        self.change(path, Some(place), None);
        Ok(())
    }

    pub(super) fn remove_dir_all(&mut self, path: &str) -> io::Result<()> {
        let place = self.place(path)?;
        let dir = self.find(&place)?.ok_or(io::ErrorKind::NotFound)?;
        let entries: Vec<(String, Ino)> = self.entries(dir)?.clone().into_iter().collect();
        for (name, ino) in entries {
            let path = format!("{path}/{name}");
            if self.is_dir(ino) {
                self.remove_dir_all(&path)?;
            } else {
                self.change(&path, Some((dir, name)), None);
            }
        }
        self.change(path, Some(place), None);
        Ok(())
    }

    /// Makes a change visible and pending.
    fn change(&mut self, path: &str, unlink: Option<Place>, link: Option<(Place, Ino)>) {
        let change = EntryChange { seq: self.next_seq, path: path.into(), unlink, link };
        self.next_seq += 1;
        self.apply(&change, Side::Cached);
        self.pending.push(change);
    }

    fn apply(&mut self, change: &EntryChange, side: Side) {
        if let Some((dir, name)) = &change.unlink
            && let Some(entries) = self.entries_mut(*dir, side)
        {
            entries.remove(name);
        }
        if let Some(((dir, name), target)) = &change.link
            && let Some(entries) = self.entries_mut(*dir, side)
        {
            entries.insert(name.clone(), *target);
        }
    }

    /// `None` for a directory that is gone for good.
    fn entries_mut(&mut self, dir: Ino, side: Side) -> Option<&mut Entries> {
        match &mut self.inodes.get_mut(&dir)?.node {
            Node::Dir { cached, durable } => Some(if side == Side::Cached { cached } else { durable }),
            Node::File(_) => None,
        }
    }

    /// Makes the entries of `dir` durable, and what those of the same names elsewhere need before them.
    pub(super) fn sync_dir(&mut self, dir: Ino) {
        for change in self.take_pending(dir) {
            self.apply(&change, Side::Durable);
        }
        self.collect_garbage();
    }

    /// The sync of `dir` failed: a later one will have nothing to do, and a crash will bring the old entries back.
    pub(super) fn fail_sync_dir(&mut self, dir: Ino) {
        self.take_pending(dir);
    }

    fn take_pending(&mut self, dir: Ino) -> Vec<EntryChange> {
        let mut chosen: Vec<bool> = self.pending.iter().map(|change| change.home() == dir).collect();
        choose_predecessors(&self.pending, &mut chosen);
        let mut chosen = chosen.into_iter();
        self.pending.extract_if(.., |_| chosen.next().unwrap_or(false)).collect()
    }

    /// The power was cut. Asks for the entries first, then for the files, in an order that no answer changes.
    pub(super) fn crash(&mut self, decide: &mut dyn FnMut(&Unsynced) -> Survival) {
        let pending = std::mem::take(&mut self.pending);
        let ask = |change: &EntryChange| Unsynced {
            seq: change.seq,
            path: change.path.clone(),
            part: UnsyncedPart::Entry,
            is_idle: false,
        };
        let mut chosen: Vec<bool> =
            pending.iter().map(|change| decide(&ask(change)) != Survival::Lost).collect();
        choose_predecessors(&pending, &mut chosen);
        for (change, _) in pending.iter().zip(chosen).filter(|(_, chosen)| *chosen) {
            self.apply(change, Side::Durable);
        }
        for inode in self.inodes.values_mut() {
            match &mut inode.node {
                Node::Dir { cached, durable } => cached.clone_from(durable),
                Node::File(content) => content.crash(&inode.path, decide),
            }
        }
        self.crash_process();
    }

    /// The process was killed: its handles are closed.
    pub(super) fn crash_process(&mut self) {
        for inode in self.inodes.values_mut() {
            inode.open = 0;
        }
        self.collect_garbage();
    }

    #[cfg(test)]
    pub(super) fn inode_count(&self) -> usize {
        self.inodes.len()
    }

    /// The sequence number of the oldest unsynced thing, or the next one to be assigned.
    pub(super) fn unsynced_start(&self) -> u64 {
        let contents = self.inodes.values().filter_map(|inode| match &inode.node {
            Node::File(content) => content.unsynced_start(),
            Node::Dir { .. } => None,
        });
        let entries = self.pending.first().map(|change| change.seq);
        contents.chain(entries).min().unwrap_or(self.next_seq)
    }

    pub(super) fn drop_caches(&mut self) {
        for inode in self.inodes.values_mut() {
            if let Node::File(content) = &mut inode.node {
                content.drop_cache();
            }
        }
    }

    /// The files that can be seen, by path.
    pub(super) fn files(&self) -> BTreeMap<String, Ino> {
        let mut files = BTreeMap::new();
        let mut dirs = vec![(String::new(), ROOT)];
        while let Some((prefix, dir)) = dirs.pop() {
            for (name, ino) in self.entries(dir).expect("only directories are pushed") {
                let path = format!("{prefix}{name}");
                if self.is_dir(*ino) {
                    dirs.push((format!("{path}/"), *ino));
                } else {
                    files.insert(path, *ino);
                }
            }
        }
        files
    }

    /// The lengths of the files that can be seen or are open.
    pub(super) fn used_bytes(&self) -> u64 {
        let (mut bytes, mut dirs) = (0, vec![ROOT]);
        while let Some(dir) = dirs.pop() {
            for ino in self.entries(dir).expect("only directories are pushed").values() {
                match &self.inode(*ino).node {
                    Node::Dir { .. } => dirs.push(*ino),
                    // Those that are open are counted below.
                    Node::File(content) if self.inode(*ino).open == 0 => {
                        bytes += content.cached().len() as u64
                    }
                    Node::File(_) => {}
                }
            }
        }
        let open = self.inodes.iter().filter(|(_, inode)| inode.open > 0);
        bytes + open.map(|(ino, _)| self.content(*ino).cached().len() as u64).sum::<u64>()
    }

    /// Drops the inodes that neither a reader nor a crash could bring to light, and the changes of dead directories.
    fn collect_garbage(&mut self) {
        let mut live = BTreeSet::new();
        let mut found: Vec<Ino> =
            self.inodes.iter().filter(|(_, i)| i.open > 0).map(|(ino, _)| *ino).collect();
        found.push(ROOT);
        while !found.is_empty() {
            while let Some(ino) = found.pop() {
                if live.insert(ino)
                    && let Node::Dir { cached, durable } = &self.inodes[&ino].node
                {
                    found.extend(cached.values().chain(durable.values()));
                }
            }
            let targets = self.pending.iter().filter(|change| live.contains(&change.home()));
            let targets = targets.filter_map(|change| change.link.as_ref().map(|(_, target)| *target));
            found.extend(targets.filter(|target| !live.contains(target)));
        }
        self.pending.retain(|change| live.contains(&change.home()));
        self.inodes.retain(|ino, _| live.contains(ino));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Cached,
    Durable,
}

impl Node {
    fn new_dir() -> Node {
        Node::Dir { cached: Entries::new(), durable: Entries::new() }
    }
}

impl Inode {
    fn new(path: &str, node: Node) -> Inode {
        Inode { path: path.into(), node, open: 0, failed_syncs: 0 }
    }
}

/// Chooses, for every change that is chosen, the earlier ones of the same names as well.
fn choose_predecessors(changes: &[EntryChange], chosen: &mut [bool]) {
    let mut places: BTreeSet<&Place> = BTreeSet::new();
    for (change, chosen) in changes.iter().zip(chosen).rev() {
        *chosen = *chosen || change.places().any(|place| places.contains(place));
        if *chosen {
            places.extend(change.places());
        }
    }
}
