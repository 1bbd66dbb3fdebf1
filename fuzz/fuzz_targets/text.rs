//! Text forms of positions, ids and checksums, and the header on page 1.
#![no_main]

use anabranch_format::{
    DB_HEADER_BYTES, DatabaseId, DbChecksum, Lsn, PageOne, PageSize, SQLITE_MAGIC,
    canonicalise_page_one,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(lsn) = text.parse::<Lsn>() {
            assert_eq!(lsn.to_string().parse::<Lsn>().expect("reads back"), lsn);
        }
        if let Ok(id) = text.parse::<DatabaseId>() {
            assert_eq!(id.as_str(), text);
        }
        if let Ok(sum) = text.parse::<DbChecksum>() {
            assert_eq!(sum.to_string(), text);
        }
    }
    let _ = PageOne::read(data);
    let mut page = data.to_vec();
    page.resize(data.len().max(DB_HEADER_BYTES), 0);
    page[..16].copy_from_slice(SQLITE_MAGIC);
    if let Ok(one) = PageOne::read(&page) {
        assert!(PageSize::new(one.page_size.get()).is_ok());
        canonicalise_page_one(&mut page, 7, 9);
        let canonical = PageOne::read(&page).expect("still page 1");
        assert_eq!((canonical.schema_cookie, canonical.db_size), (7, 9));
        assert_eq!((canonical.page_size, canonical.reserved), (one.page_size, one.reserved));
    }
});
