//! Every kind of request, over the socket, by a driver that controls every descriptor.

mod common;

use common::daemon::{Daemon, make_namespace};
use common::frontend::*;
use tempfile::TempDir;

fn disk(sector_size: u32, arguments: &[&str]) -> (TempDir, Daemon, Driver) {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", sector_size);
    let daemon = Daemon::start(&file, arguments);
    let driver = Driver::connect(daemon.connect(), 1);
    (folder, daemon, driver)
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i / 7 % 251) as u8 ^ seed).collect()
}

fn capacity(driver: &mut Driver) -> u64 {
    u64::from_le_bytes(driver.config(0, 8).try_into().unwrap())
}

#[test]
fn data_written_are_read_back() {
    for sector_size in [512, 4096] {
        let (_folder, _daemon, mut driver) = disk(sector_size, &[]);
        let end = capacity(&mut driver);
        let per_sector = u64::from(sector_size) / 512;
        for (sector, sectors) in [(0, 1), (1, 8), (40, 200), (end / per_sector - 1, 1)] {
            let data = pattern((sectors * sector_size) as usize, sector as u8);
            assert_eq!(driver.write(0, sector * per_sector, &data), OK);
            assert!(driver.read(0, sector * per_sector, data.len()) == data);
        }
        assert!(driver.read(0, 300 * per_sector, 8192).iter().all(|&byte| byte == 0));
    }
}

#[test]
fn part_of_a_sector_can_be_read_and_written() {
    let (_folder, _daemon, mut driver) = disk(4096, &[]);
    let mut expected = pattern(16384, 0);
    assert_eq!(driver.write(0, 0, &expected), OK);
    for (sector, sectors) in [(1, 1), (7, 2), (3, 12), (8, 7), (0, 32)] {
        let data = pattern(sectors * 512, sector as u8 + 1);
        assert_eq!(driver.write(0, sector as u64, &data), OK);
        expected[sector * 512..(sector + sectors) * 512].copy_from_slice(&data);
        assert!(driver.read(0, 0, 16384) == expected);
        assert!(driver.read(0, sector as u64, data.len()) == data);
    }
}

/// Header, data and status in pieces of odd sizes, in either region of guest memory.
#[test]
fn any_layout_of_descriptors_will_do() {
    for sector_size in [512, 4096] {
        let (_folder, _daemon, mut driver) = disk(sector_size, &[]);
        let high = (1u64 << 32) + 0x1234;
        let layouts: [&[u32]; 5] =
            [&[8192], &[1, 511, 512, 7168], &[100, 3996, 4096], &[4095, 1, 4096], &[7, 8000, 185]];
        for (number, pieces) in layouts.iter().enumerate() {
            let data = pattern(8192, number as u8);
            let header = request_header(T_OUT, 8);
            // The header in three pieces, the last of which goes on into the data.
            let place = high + number as u64 * 0x10000;
            driver.put(place, &header[..5]);
            driver.put(place + 0x1000, &header[5..6]);
            let mut chain = vec![readable(place, 5), readable(place + 0x1000, 1)];
            let first = pieces[0] as usize;
            driver.put(place + 0x2000, &[&header[6..], &data[..first]].concat());
            chain.push(readable(place + 0x2000, 10 + pieces[0]));
            let mut done = first;
            for (index, &piece) in pieces[1..].iter().enumerate() {
                let address = BUFFERS + 0x1_0000 * index as u64 + 3;
                driver.put(address, &data[done..done + piece as usize]);
                chain.push(readable(address, piece));
                done += piece as usize;
            }
            driver.put(BUFFERS, &[0xee]);
            chain.push(writable(BUFFERS, 1));
            assert_eq!(driver.run_chain(0, &linked(0, chain)), 1);
            assert_eq!(driver.get(BUFFERS, 1), [OK]);
            assert!(driver.read(0, 8, 8192) == data, "{pieces:?}");

            // The same way back, the status byte behind the last piece of data.
            driver.put(place, &request_header(T_IN, 8));
            let mut chain = vec![readable(place, 16)];
            let mut addresses = Vec::new();
            for (index, &piece) in pieces.iter().enumerate() {
                let address = high + 0x40_0000 + 0x1_0000 * index as u64 + 5;
                let status = u32::from(index == pieces.len() - 1);
                chain.push(writable(address, piece + status));
                addresses.push((address, piece as usize));
            }
            assert_eq!(driver.run_chain(0, &linked(0, chain)), 8193);
            let read: Vec<u8> =
                addresses.iter().flat_map(|&(address, piece)| driver.get(address, piece)).collect();
            assert!(read == data, "{pieces:?}");
            let (last, piece) = addresses[addresses.len() - 1];
            assert_eq!(driver.get(last + piece as u64, 1), [OK]);
        }
    }
}

#[test]
fn indirect_descriptors_are_followed() {
    let (_folder, _daemon, mut driver) = disk(512, &[]);
    let data = pattern(512 * 300, 9);
    let table = BUFFERS + 0x20_0000;
    let mut chain = vec![readable(BUFFERS, 16)];
    driver.put(BUFFERS, &request_header(T_OUT, 3));
    for (index, sector) in data.chunks(512).enumerate() {
        let address = BUFFERS + 0x1000 + 512 * index as u64;
        driver.put(address, sector);
        chain.push(readable(address, 512));
    }
    chain.push(writable(BUFFERS + 0x800, 1));
    // More descriptors than the queue has.
    for (index, descriptor) in (0..).zip(linked(0, chain.clone())) {
        driver.put_descriptor(table, index, descriptor);
    }
    let length = 16 * chain.len() as u32;
    let indirect = Descriptor { address: table, length, flags: INDIRECT, next: 0 };
    assert_eq!(driver.run_chain(0, &[indirect]), 1);
    assert_eq!(driver.get(BUFFERS + 0x800, 1), [OK]);
    assert!(driver.read(0, 3, data.len()) == data);
}

#[test]
fn the_configuration_says_what_is_so() {
    let le32 = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    for (sector_size, arguments, discards) in [
        (4096, &["--num-queues", "3"][..], true),
        (512, &["--num-queues", "3"], false),
        (512, &["--num-queues", "3", "--discard", "on"], true),
        (4096, &["--num-queues", "3", "--discard", "off"], false),
    ] {
        let (_folder, _daemon, mut driver) = disk(sector_size, arguments);
        let config = driver.config(0, 60);
        assert_eq!(capacity(&mut driver) % (u64::from(sector_size) / 512), 0);
        // Whole units of 64 KiB, or of 32.
        let segments = if sector_size == 4096 { 112 } else { 120 };
        assert_eq!(le32(&config[12..16]), segments, "seg_max");
        assert_eq!(le32(&config[20..24]), sector_size, "blk_size");
        assert_eq!(config[24..28], [0, 0, 1, 0], "topology");
        assert_eq!(config[32], 1, "writeback, on the page cache");
        assert_eq!(config[34..36], [3, 0], "num_queues");
        assert_eq!(le32(&config[36..40]) > 0, discards, "max_discard_sectors");
        assert_eq!(le32(&config[40..44]) > 0, discards, "max_discard_seg");
        assert_eq!(le32(&config[44..48]), if discards { sector_size / 512 } else { 0 });
        assert!(le32(&config[48..52]) > 0 && le32(&config[52..56]) > 0, "write zeroes");
        assert_eq!(config[56] == 1, discards, "write_zeroes_may_unmap");
        assert_eq!(driver.features >> 13 & 1 == 1, discards);

        // Any part of it, exactly as long as asked for, zero beyond the end.
        assert_eq!(driver.config(20, 4), config[20..24]);
        assert_eq!(driver.config(56, 40)[..4], config[56..]);
        assert!(driver.config(60, 100).iter().all(|&byte| byte == 0));
    }
}

#[test]
fn the_features_are_those_that_hold() {
    let bits = |driver: &Driver| {
        (0..64).filter(|bit| driver.features >> bit & 1 == 1).collect::<Vec<u32>>()
    };
    let (_folder, _daemon, driver) = disk(4096, &[]);
    assert_eq!(bits(&driver), [2, 6, 9, 10, 11, 12, 13, 14, 26, 28, 29, 30, 32, 35]);
    let (_folder, _daemon, driver) = disk(4096, &["--read-only"]);
    assert_eq!(bits(&driver), [2, 5, 6, 9, 10, 11, 12, 26, 28, 29, 30, 32, 35]);
}

#[test]
fn the_disk_tells_its_serial_number() {
    let (_folder, _daemon, mut driver) = disk(512, &["--serial", "a serial"]);
    let (status, id) = driver.request(0, T_GET_ID, 0, &[], 20);
    assert_eq!((status, &id[..]), (OK, &b"a serial\0\0\0\0\0\0\0\0\0\0\0\0"[..]));
    let (status, id) = driver.request(0, T_GET_ID, 0, &[], 5);
    assert_eq!((status, &id[..]), (OK, &b"a ser"[..]));
    let (folder, _daemon, mut driver) = disk(512, &[]);
    let (_, id) = driver.request(0, T_GET_ID, 0, &[], 20);
    let file = folder.path().join("nvdimm");
    let listed = common::daemon::nvdimmctl_ok(&["list", "--json", file.to_str().unwrap()]);
    let listed: serde_json::Value = serde_json::from_slice(&listed).unwrap();
    let uuid = listed[0]["uuid"].as_str().unwrap().replace('-', "");
    assert_eq!(id, uuid.as_bytes()[..20]);
}

#[test]
fn discarded_sectors_read_as_zeroes() {
    let (_folder, _daemon, mut driver) = disk(4096, &[]);
    let data = pattern(4096 * 20, 1);
    assert_eq!(driver.write(0, 0, &data), OK);
    // Whole sectors, two segments; the parts of sectors at the edges stay.
    assert_eq!(driver.clear(T_DISCARD, &[(8, 16, 0), (33, 14, 0)]), OK);
    let mut expected = data.clone();
    expected[8 * 512..24 * 512].fill(0);
    assert!(driver.read(0, 0, data.len()) == expected);
    assert_eq!(driver.clear(T_DISCARD, &[(33, 31, 0)]), OK);
    expected[40 * 512..64 * 512].fill(0);
    assert!(driver.read(0, 0, data.len()) == expected);
}

#[test]
fn written_zeroes_are_exact() {
    for (sector_size, arguments) in
        [(4096, &[][..]), (4096, &["--discard", "off"]), (512, &[]), (512, &["--discard", "on"])]
    {
        let (_folder, _daemon, mut driver) = disk(sector_size, arguments);
        let mut expected = pattern(4096 * 40, 1);
        assert_eq!(driver.write(0, 0, &expected), OK);
        for segments in
            [&[(3, 1, 0)][..], &[(8, 8, 1), (30, 3, 0)], &[(47, 50, 1), (100, 0, 0), (101, 100, 0)]]
        {
            assert_eq!(driver.clear(T_WRITE_ZEROES, segments), OK);
            for &(sector, count, _) in segments {
                expected[sector as usize * 512..][..count as usize * 512].fill(0);
            }
            assert!(driver.read(0, 0, expected.len()) == expected, "{segments:?}");
        }
    }
}

#[test]
fn segments_that_are_not_allowed_change_nothing() {
    let (_folder, _daemon, mut driver) = disk(4096, &[]);
    let end = capacity(&mut driver);
    let data = pattern(8192, 1);
    assert_eq!(driver.write(0, 0, &data), OK);
    for (kind, segments, status) in [
        (T_DISCARD, &[(0, 8, 1)][..], UNSUPP),
        (T_DISCARD, &[(0, 8, 2)], UNSUPP),
        (T_WRITE_ZEROES, &[(0, 8, 2)], UNSUPP),
        (T_DISCARD, &[(0, 8, 0), (end, 1, 0)], IOERR),
        (T_WRITE_ZEROES, &[(0, 8, 0), (end - 1, 2, 0)], IOERR),
        (T_WRITE_ZEROES, &[(u64::MAX, 8, 0)], IOERR),
        (T_WRITE_ZEROES, &[(0, u32::MAX, 0)], IOERR),
        (T_DISCARD, &[], IOERR),
        (T_DISCARD, &[(0, 8, 0); 65], IOERR),
    ] {
        assert_eq!(driver.clear(kind, segments), status, "{kind} {segments:?}");
    }
    let (status, _) = driver.request(0, T_DISCARD, 0, &[0; 17], 0);
    assert_eq!(status, IOERR);
    assert!(driver.read(0, 0, 8192) == data);
}

#[test]
fn a_discard_that_is_not_offered_is_not_supported() {
    let (_folder, _daemon, mut driver) = disk(512, &[]);
    assert_eq!(driver.clear(T_DISCARD, &[(0, 8, 0)]), UNSUPP);
}

#[test]
fn unknown_requests_are_not_supported() {
    let (_folder, _daemon, mut driver) = disk(512, &[]);
    for kind in [2, 3, 14, 15, 0x8000_0000, u32::MAX] {
        assert_eq!(driver.request(0, kind, 0, &[0; 16], 0).0, UNSUPP, "{kind}");
    }
    assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
}

#[test]
fn a_read_only_disk_refuses_every_change_and_the_file_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let before = std::fs::read(&file).unwrap();
    let mut permissions = std::fs::metadata(&file).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&file, permissions).unwrap();
    let daemon = Daemon::start(&file, &["--read-only"]);
    // Also a driver that does not care for the feature.
    for wanted in [u64::MAX, 0] {
        let mut driver = Driver::connect_with(daemon.connect(), 1, wanted);
        assert_eq!(driver.write(0, 0, &[1; 4096]), IOERR);
        assert_eq!(driver.write(0, 1, &[1; 512]), IOERR);
        assert_eq!(driver.clear(T_DISCARD, &[(0, 8, 0)]), IOERR);
        assert_eq!(driver.clear(T_WRITE_ZEROES, &[(0, 8, 0)]), IOERR);
        assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
        assert!(driver.read(0, 0, 4096).iter().all(|&byte| byte == 0));
    }
    assert!(std::fs::read(&file).unwrap() == before);
}

#[test]
fn every_durability_serves_the_same_disk() {
    for (durability, writeback) in [("auto", 1), ("page-cache", 1), ("strict", 0), ("dax", 0)] {
        let (_folder, _daemon, mut driver) = disk(512, &["--durability", durability]);
        assert_eq!(driver.config(32, 1), [writeback], "{durability}");
        let data = pattern(512 * 20, 3);
        assert_eq!(driver.write(0, 7, &data), OK);
        assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
        assert!(driver.read(0, 7, data.len()) == data);
    }
}

#[test]
fn the_guest_chooses_write_through_or_write_back() {
    let (_folder, daemon, mut driver) = disk(512, &[]);
    assert_eq!(driver.config(32, 1), [1]);
    driver.set_config(32, &[0]).unwrap();
    assert_eq!(driver.config(32, 1), [0]);
    assert_eq!(driver.write(0, 0, &[1; 512]), OK);
    // What cannot be written is left alone, and the connection lives on.
    let before = driver.config(0, 60);
    for (offset, bytes) in [(32, &[2][..]), (0, &[0; 8]), (33, &[1]), (200, &[7])] {
        driver.set_config(offset, bytes).unwrap();
    }
    assert_eq!(driver.config(0, 60), before);
    // A write of several bytes sets the mode if the byte is among them.
    for (offset, bytes, mode) in [(32, &[1, 0, 0, 0][..], 1), (30, &[9, 9, 0], 0)] {
        driver.set_config(offset, bytes).unwrap();
        assert_eq!(driver.config(32, 1), [mode]);
    }
    drop(driver);
    // The next guest starts from the beginning.
    let mut driver = Driver::connect(daemon.connect(), 1);
    assert_eq!(driver.config(32, 1), [1]);
}

#[test]
fn completions_say_how_much_was_filled() {
    let (_folder, _daemon, mut driver) = disk(512, &[]);
    driver.put(BUFFERS, &request_header(T_IN, 0));
    let chain = linked(0, vec![readable(BUFFERS, 16), writable(BUFFERS + 4096, 1537)]);
    assert_eq!(driver.run_chain(0, &chain), 1537);
    driver.put(BUFFERS, &request_header(T_OUT, 0));
    let chain = linked(
        0,
        vec![readable(BUFFERS, 16), readable(BUFFERS + 4096, 512), writable(BUFFERS + 8192, 1)],
    );
    assert_eq!(driver.run_chain(0, &chain), 1);
}
