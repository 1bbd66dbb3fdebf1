//! The pages of SQLite's b-trees, as <https://www.sqlite.org/fileformat2.html> describes them in
//! section 1.6: what is on a page, which pages a tree has, which a chain of overflow pages.

use std::io;
use std::ops::Range;

use anabranch_format::Pgno;
use anabranch_sqlite::{SharedPages, lock_pages};

use super::{Odd, header};

/// SQLite's own limit of the depth of a tree.
const DEPTH_MAX: usize = 20;

/// The pages of one state.
pub(super) struct Reader {
    pages: SharedPages,
    page_bytes: usize,
    /// Bytes of a page that carry content.
    usable: usize,
    pub(super) size: u32,
    pub(super) lock_page: Pgno,
    /// The first page of the list of free ones.
    pub(super) free: u32,
    /// The database has pointer maps.
    pub(super) has_maps: bool,
    /// Text is UTF-8.
    pub(super) utf8: bool,
    sound: bool,
}

impl Reader {
    pub(super) fn new(pages: SharedPages) -> io::Result<Self> {
        let (page_size, size) = {
            let pages = lock_pages(&pages)?;
            (pages.page_size(), pages.size())
        };
        let mut reader = Reader {
            pages,
            page_bytes: page_size.bytes(),
            usable: page_size.bytes(),
            size,
            lock_page: page_size.lock_page(),
            free: 0,
            has_maps: false,
            utf8: true,
            sound: false,
        };
        if let Some((one, page)) = header(&reader.pages)? {
            // SQLite's own demand: at least 480 bytes.
            reader.usable = page_size.bytes() - usize::from(one.reserved);
            reader.sound = one.page_size == page_size && reader.usable >= 480;
            reader.free = number(&page, 32);
            reader.has_maps = number(&page, 52) != 0;
            reader.utf8 = number(&page, 56) <= 1;
        }
        Ok(reader)
    }

    /// Whether pages of the two states cannot be compared as they are.
    pub(super) fn differs_in_kind(&self, other: &Reader) -> bool {
        !self.sound
            || !other.sound
            || (self.page_bytes, self.usable) != (other.page_bytes, other.usable)
            || self.utf8 != other.utf8
    }

    /// How many entries a page of the free list or of a pointer map has at most.
    pub(super) fn usable(&self) -> usize {
        self.usable
    }

    pub(super) fn bytes(&self, pgno: u32) -> Result<Vec<u8>, Odd> {
        let pgno = Pgno::new(pgno)
            .filter(|pgno| pgno.get() <= self.size && *pgno != self.lock_page)
            .ok_or(Odd::GiveUp)?;
        let mut page = vec![0; self.page_bytes];
        lock_pages(&self.pages)?.read(pgno, &mut page)?;
        Ok(page)
    }

    pub(super) fn page(&self, pgno: u32) -> Result<Page, Odd> {
        Page::parse(self.bytes(pgno)?, pgno, self.usable)
    }

    /// Tells `visit` of all pages of the tree at `root` that are not leaves, and of the numbers of its
    /// leaves, in the order of their keys. All leaves of a tree are at one depth, so that they need
    /// not be read; in a tree where they are not, SQLite itself finds an error.
    pub(super) fn walk(
        &self,
        root: u32,
        visit: &mut dyn FnMut(Visit<'_>) -> Result<(), Odd>,
    ) -> Result<(), Odd> {
        let depth = self.depth(root)?;
        if depth == 0 {
            return visit(Visit::Leaf(root));
        }
        let mut visited = 0;
        let mut path = vec![(self.page(root)?, 0)];
        while let Some((page, child)) = path.last_mut() {
            if *child == 0 {
                visited += 1;
                if !page.kind.is_interior() || visited > self.size {
                    return Err(Odd::GiveUp);
                }
                visit(Visit::Interior(page))?;
            }
            let at = *child;
            *child += 1;
            if at > page.cells {
                path.pop();
                continue;
            }
            let next = page.child(at)?;
            if path.len() == depth {
                visit(Visit::Leaf(next))?;
            } else {
                path.push((self.page(next)?, 0));
            }
        }
        Ok(())
    }

    /// How many pages lie above the first leaf.
    fn depth(&self, root: u32) -> Result<usize, Odd> {
        let mut at = root;
        for depth in 0..DEPTH_MAX {
            let page = self.page(at)?;
            if !page.kind.is_interior() {
                return Ok(depth);
            }
            at = page.child(0)?;
        }
        Err(Odd::GiveUp)
    }

    /// How many overflow pages hold what is left of a payload.
    pub(super) fn chain_pages(&self, left: u64) -> u64 {
        left.div_ceil(self.usable as u64 - 4)
    }

    /// Tells `each` of the `pages` overflow pages from `first` on, until it answers `false`.
    pub(super) fn chain(
        &self,
        first: u32,
        pages: u64,
        each: &mut dyn FnMut(u32) -> bool,
    ) -> Result<(), Odd> {
        if pages > u64::from(self.size) {
            return Err(Odd::GiveUp);
        }
        let mut at = first;
        for left in (0..pages).rev() {
            if at == 0 || at > self.size {
                return Err(Odd::GiveUp);
            }
            if !each(at) {
                return Ok(());
            }
            if left > 0 {
                at = number(&self.bytes(at)?, 0);
            }
        }
        Ok(())
    }

    /// The first `wanted` bytes of the payload of a cell, or all that it has.
    pub(super) fn payload(&self, cell: &[u8], at: &At, wanted: usize) -> Result<Vec<u8>, Odd> {
        let total = usize::try_from(at.payload).map_err(|_| Odd::GiveUp)?;
        let wanted = wanted.min(total);
        let mut bytes = cell[at.local.clone()].to_vec();
        let mut next = at.overflow.unwrap_or(0);
        while bytes.len() < wanted {
            let page = self.bytes(next)?;
            let part = (self.usable - 4).min(total - bytes.len());
            bytes.extend_from_slice(&page[4..4 + part]);
            next = number(&page, 0);
        }
        bytes.truncate(wanted);
        Ok(bytes)
    }
}

/// What a walk comes upon.
pub(super) enum Visit<'a> {
    /// A page above the leaves.
    Interior(&'a Page),
    /// The number of a leaf.
    Leaf(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    IndexInterior,
    TableInterior,
    IndexLeaf,
    TableLeaf,
}

impl Kind {
    pub(super) fn is_interior(self) -> bool {
        matches!(self, Kind::IndexInterior | Kind::TableInterior)
    }

    pub(super) fn is_table(self) -> bool {
        matches!(self, Kind::TableInterior | Kind::TableLeaf)
    }
}

/// A page of a tree.
pub(super) struct Page {
    pub(super) number: u32,
    pub(super) kind: Kind,
    /// Number of cells.
    pub(super) cells: usize,
    pub(super) bytes: Vec<u8>,
    /// Where the header of the tree's page begins: on page 1 behind that of the database.
    start: usize,
    usable: usize,
}

/// A cell on its page.
pub(super) struct At {
    /// All of it but for a child: what is the same wherever it lies.
    pub(super) whole: Range<usize>,
    pub(super) rowid: i64,
    /// Length of the payload.
    pub(super) payload: u64,
    /// The part of it that lies here.
    pub(super) local: Range<usize>,
    /// Where the rest begins.
    pub(super) overflow: Option<u32>,
}

impl At {
    /// Bytes of the payload that lie in overflow pages.
    pub(super) fn left(&self) -> u64 {
        self.payload - self.local.len() as u64
    }
}

impl Page {
    fn parse(bytes: Vec<u8>, pgno: u32, usable: usize) -> Result<Self, Odd> {
        let start = if pgno == 1 { 100 } else { 0 };
        let kind = match bytes[start] {
            2 => Kind::IndexInterior,
            5 => Kind::TableInterior,
            10 => Kind::IndexLeaf,
            13 => Kind::TableLeaf,
            _ => return Err(Odd::GiveUp),
        };
        let cells = usize::from(short(&bytes, start + 3));
        let page = Page { number: pgno, kind, cells, bytes, start, usable };
        if page.pointers() + 2 * cells > usable { Err(Odd::GiveUp) } else { Ok(page) }
    }

    /// Where the places of the cells stand.
    fn pointers(&self) -> usize {
        self.start + if self.kind.is_interior() { 12 } else { 8 }
    }

    fn place(&self, cell: usize) -> Result<usize, Odd> {
        let place = usize::from(short(&self.bytes, self.pointers() + 2 * cell));
        let first = self.pointers() + 2 * self.cells;
        // The shortest cell has four bytes, or is padded to as many.
        if place < first || place + 4 > self.usable { Err(Odd::GiveUp) } else { Ok(place) }
    }

    /// The child before the cell `cell`, or after the last one.
    pub(super) fn child(&self, cell: usize) -> Result<u32, Odd> {
        let at = if cell < self.cells { self.place(cell)? } else { self.start + 8 };
        Ok(number(&self.bytes, at))
    }

    /// The cell `cell`, which carries a payload: not on the interior pages of tables.
    pub(super) fn cell(&self, cell: usize) -> Result<At, Odd> {
        let mut at = self.place(cell)?;
        if self.kind == Kind::IndexInterior {
            at += 4;
        }
        parse_cell(&self.bytes[..self.usable], at, self.usable, self.kind.is_table())
    }
}

/// The cell of an index, without its page.
pub(super) fn cell_alone(bytes: &[u8], usable: usize) -> Result<At, Odd> {
    parse_cell(bytes, 0, usable, false)
}

/// The cell in `bytes` from `at` on, without its child.
fn parse_cell(bytes: &[u8], begin: usize, usable: usize, is_table: bool) -> Result<At, Odd> {
    let mut at = begin;
    let payload = varint(bytes, &mut at).ok_or(Odd::GiveUp)?;
    let rowid = if is_table { varint(bytes, &mut at).ok_or(Odd::GiveUp)? } else { 0 };
    let local = local_bytes(usable, payload, is_table);
    let end = at.checked_add(local).filter(|end| *end <= bytes.len()).ok_or(Odd::GiveUp)?;
    let rowid = rowid.cast_signed();
    let mut cell = At { whole: begin..end, rowid, payload, local: at..end, overflow: None };
    if (local as u64) < payload {
        if end + 4 > bytes.len() {
            return Err(Odd::GiveUp);
        }
        cell.overflow = Some(number(bytes, end));
        cell.whole.end = end + 4;
    }
    Ok(cell)
}

/// How much of a payload lies on the page of its cell.
fn local_bytes(usable: usize, payload: u64, is_table: bool) -> usize {
    let max = if is_table { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
    let min = (usable - 12) * 32 / 255 - 23;
    match usize::try_from(payload) {
        Ok(payload) if payload <= max => payload,
        Ok(payload) => {
            let part = min + (payload - min) % (usable - 4);
            if part <= max { part } else { min }
        }
        Err(_) => min,
    }
}

/// SQLite's numbers of one to nine bytes.
pub(super) fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for index in 0..9 {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if index == 8 {
            return Some(value << 8 | u64::from(byte));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            break;
        }
    }
    Some(value)
}

/// A number of four bytes.
pub(super) fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
