//! The merge of deltas against a map of pages.
#![no_main]

use std::collections::BTreeMap;

use anabranch_format::{DeltaError, Merge, PageOrder, PageSize, PageSource, Pgno};
use anabranch_fuzz::Recipe;
use libfuzzer_sys::fuzz_target;

/// The pages of one delta, by number; of each the byte that fills it.
struct Pages(std::collections::btree_map::IntoIter<u32, u8>);

impl PageSource for Pages {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        Ok(self.0.next().and_then(|(number, fill)| {
            page.fill(fill);
            Pgno::new(number)
        }))
    }
}

fuzz_target!(|data: &[u8]| {
    let mut recipe = Recipe(data);
    let before = u32::from(recipe.byte() % 32);
    let mut model: BTreeMap<u32, u8> = (1..=before).map(|n| (n, 0)).collect();
    let mut receiver = model.clone();
    let mut size = before;
    let mut sources = Vec::new();
    while !recipe.0.is_empty() && sources.len() < 40 {
        let after = u32::from(recipe.byte() % 32) + 1;
        let mut pages: BTreeMap<u32, u8> = (size + 1..=after).map(|n| (n, recipe.byte())).collect();
        for _ in 0..recipe.byte() % 8 {
            pages.insert(u32::from(recipe.byte()) % after + 1, recipe.byte());
        }
        model.extend(&pages);
        model.retain(|&page, _| page <= after);
        size = after;
        sources.push(Pages(pages.into_iter()));
    }
    let mut merge = Merge::new(sources, PageSize::MIN, size);
    let mut order = PageOrder::new(PageSize::MIN, before, size);
    let mut page = [0; 512];
    while let Some(number) = merge.next_page(&mut page).expect("no source fails") {
        order.next(number).expect("a merge of deltas is a delta");
        receiver.insert(number.get(), page[0]);
    }
    order.end().expect("a merge of deltas is a delta");
    receiver.retain(|&page, _| page <= size);
    assert_eq!(receiver, model);
});
