//! Names: the folders of a simulated disk, as programs see them and as a power cut would leave them.
//!
//! Floor 1. Owner: a disk. A change of a name is durable once its folder was flushed; before that a
//! power cut keeps all, none, the first, or any of the changes.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::base::Set;
use crate::rt::random::Random;

pub(super) type FileId = usize;
pub(super) type FolderId = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(FileId),
    Folder(FolderId),
}

enum Change {
    Add(String, Node),
    Remove(String),
    Rename(String, String, Node),
}

#[derive(Default)]
struct Names {
    current: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    /// Changes not flushed yet, with their numbers.
    pending: Vec<(u64, Change)>,
    changes: u64,
}

pub(super) struct Tree {
    folders: Vec<Names>,
    linked: Set<FileId>,
}

const ROOT: FolderId = 0;

impl Tree {
    pub(super) fn new() -> Tree {
        Tree { folders: vec![Names::default()], linked: Set::default() }
    }

    pub(super) fn is_linked(&self, file: FileId) -> bool {
        self.linked.contains(&file)
    }

    pub(super) fn find(&self, folder: FolderId, name: &str) -> Option<Node> {
        self.folders[folder].current.get(name).copied()
    }

    pub(super) fn names(&self, folder: FolderId) -> impl Iterator<Item = (&String, Node)> {
        self.folders[folder].current.iter().map(|(name, node)| (name, *node))
    }

    pub(super) fn add_file(&mut self, folder: FolderId, name: &str, file: FileId) {
        self.linked.insert(file);
        self.folders[folder].add(name, Node::File(file));
    }

    pub(super) fn add_folder(&mut self, folder: FolderId, name: &str) -> FolderId {
        self.folders.push(Names::default());
        let made = self.folders.len() - 1;
        self.folders[folder].add(name, Node::Folder(made));
        made
    }

    /// Removes a file's name; `None` if there is no such file.
    pub(super) fn remove(&mut self, folder: FolderId, name: &str) -> Option<FileId> {
        let names = &mut self.folders[folder];
        let Some(Node::File(file)) = names.current.get(name).copied() else { return None };
        names.current.remove(name);
        names.change(Change::Remove(name.to_owned()));
        self.linked.remove(&file);
        Some(file)
    }

    /// Renames; outer `None`: there is no such name. Answers the file that lost its name to it.
    pub(super) fn rename(&mut self, folder: FolderId, from: &str, to: &str) -> Option<Option<FileId>> {
        let names = &mut self.folders[folder];
        let node = names.current.remove(from)?;
        names.change(Change::Rename(from.to_owned(), to.to_owned(), node));
        match names.current.insert(to.to_owned(), node) {
            Some(Node::File(file)) if Node::File(file) != node => {
                self.linked.remove(&file);
                Some(Some(file))
            }
            _ => Some(None),
        }
    }

    /// The last change that a flush submitted now will cover.
    pub(super) fn sync_point(&self, folder: FolderId) -> u64 {
        self.folders[folder].changes
    }

    pub(super) fn synced(&mut self, folder: FolderId, point: u64) {
        let names = &mut self.folders[folder];
        let covered = names.pending.iter().take_while(|(number, _)| *number <= point).count();
        for (_, change) in names.pending.drain(..covered) {
            apply(&mut names.durable, change);
        }
    }

    pub(super) fn resolve(&self, path: &Path) -> Option<Node> {
        let mut node = Node::Folder(ROOT);
        for name in parts(path) {
            let Node::Folder(folder) = node else { return None };
            node = self.find(folder, &name)?;
        }
        Some(node)
    }

    /// The folder of that path, made durably with its missing parents. `None`: a file is in the way.
    pub(super) fn create_all(&mut self, path: &Path) -> Option<FolderId> {
        let mut folder = ROOT;
        for name in parts(path) {
            folder = match self.find(folder, &name) {
                Some(Node::Folder(inner)) => inner,
                Some(Node::File(_)) => return None,
                None => {
                    let made = self.add_folder(folder, &name);
                    self.synced(folder, u64::MAX);
                    made
                }
            };
        }
        Some(folder)
    }

    /// Every file with its path, in order of the paths.
    pub(super) fn files(&self) -> Vec<(PathBuf, FileId)> {
        let mut found = Vec::new();
        self.visit(ROOT, Path::new("/"), &mut found);
        found
    }

    fn visit(&self, folder: FolderId, path: &Path, found: &mut Vec<(PathBuf, FileId)>) {
        for (name, node) in self.names(folder) {
            match node {
                Node::File(file) => found.push((path.join(name), file)),
                Node::Folder(inner) => self.visit(inner, &path.join(name), found),
            }
        }
    }

    pub(super) fn cut_power(&mut self, random: &mut Random) {
        let mode = random.below(4);
        for names in &mut self.folders {
            let pending = std::mem::take(&mut names.pending);
            let prefix = random.below(pending.len() as u64 + 1) as usize;
            for (index, (_, change)) in pending.into_iter().enumerate() {
                let kept = match mode {
                    0 => true,
                    1 => false,
                    2 => index < prefix,
                    _ => random.chance(500_000),
                };
                if kept {
                    apply(&mut names.durable, change);
                }
            }
            names.current = names.durable.clone();
        }
        self.linked = self.files().into_iter().map(|(_, file)| file).collect();
    }
}

impl Names {
    fn add(&mut self, name: &str, node: Node) {
        self.current.insert(name.to_owned(), node);
        self.change(Change::Add(name.to_owned(), node));
    }

    fn change(&mut self, change: Change) {
        self.changes += 1;
        self.pending.push((self.changes, change));
    }
}

fn apply(names: &mut BTreeMap<String, Node>, change: Change) {
    match change {
        Change::Add(name, node) => {
            names.insert(name, node);
        }
        Change::Remove(name) => {
            names.remove(&name);
        }
        Change::Rename(from, to, node) => {
            names.remove(&from);
            names.insert(to, node);
        }
    }
}

fn parts(path: &Path) -> impl Iterator<Item = String> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    })
}
