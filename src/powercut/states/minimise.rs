//! The few of many things that something is about (ddmin).

/// A smallest part of `items` of which `fails` holds: it does not hold of any part that lacks one more item. It
/// holds of all of them.
///
/// # Errors
///
/// Those of `fails`.
pub fn minimise<T: Clone, E>(
    mut items: Vec<T>,
    fails: &mut dyn FnMut(&[T]) -> Result<bool, E>,
) -> Result<Vec<T>, E> {
    if fails(&[])? {
        return Ok(Vec::new());
    }
    let mut parts = 2;
    while items.len() > 1 {
        let size = items.len().div_ceil(parts);
        match smaller(&items, size, fails)? {
            Some((fewer, is_rest)) => {
                items = fewer;
                parts = if is_rest { (parts - 1).max(2) } else { 2 };
            }
            None if size == 1 => break,
            None => parts = (2 * parts).min(items.len()),
        }
    }
    Ok(items)
}

/// One of the parts of `size` items, or all but one of them (then `true`), of which `fails` holds.
fn smaller<T: Clone, E>(
    items: &[T],
    size: usize,
    fails: &mut dyn FnMut(&[T]) -> Result<bool, E>,
) -> Result<Option<(Vec<T>, bool)>, E> {
    for part in items.chunks(size) {
        if part.len() < items.len() && fails(part)? {
            return Ok(Some((part.to_vec(), false)));
        }
    }
    for start in (0..items.len()).step_by(size) {
        let rest = [&items[..start], &items[(start + size).min(items.len())..]].concat();
        if rest.len() < items.len() && !rest.is_empty() && fails(&rest)? {
            return Ok(Some((rest, true)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn what_remains_is_what_it_takes() {
        for needed in [vec![], vec![7], vec![0, 99], vec![3, 4, 50]] {
            let mut tries = 0;
            let mut fails = |some: &[i32]| {
                tries += 1;
                Ok::<_, Infallible>(needed.iter().all(|one| some.contains(one)))
            };
            assert_eq!(minimise((0..100).collect(), &mut fails).unwrap(), needed);
            assert!(tries < 200, "{tries} tries for {needed:?}");
        }
    }
}
