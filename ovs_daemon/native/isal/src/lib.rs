//! Arithmetic over GF(2^8) by ISA-L (libisal.so.2): matrices and their product with bytes.
//!
//! `unsafe` is allowed here because ISA-L is C and takes raw addresses. Each of its functions that
//! is used is wrapped once, and the wrapper checks every length that the C side trusts; nothing
//! else is in this crate. A matrix is a slice of rows, one byte a coefficient.
#![allow(unsafe_code)]

use std::ffi::c_int;

#[link(name = "isal")]
unsafe extern "C" {
    fn gf_gen_cauchy1_matrix(matrix: *mut u8, rows: c_int, columns: c_int);
    fn gf_invert_matrix(matrix: *mut u8, inverse: *mut u8, size: c_int) -> c_int;
    fn gf_mul(a: u8, b: u8) -> u8;
    fn ec_init_tables(columns: c_int, rows: c_int, matrix: *const u8, tables: *mut u8);
    fn ec_encode_data(
        len: c_int,
        sources: c_int,
        outputs: c_int,
        tables: *const u8,
        data: *const *const u8,
        coding: *const *mut u8,
    );
}

/// Bytes that ISA-L expands each coefficient to.
const TABLE: usize = 32;

fn int(value: usize) -> c_int {
    c_int::try_from(value).expect("lengths are far below 2 GiB")
}

/// The matrix of `rows` x `columns` whose upper square is the identity and of which any `columns`
/// rows can be inverted (Cauchy), the same that liberasurecode's `isa_l_rs_cauchy` uses.
///
/// # Panics
/// With more than 256 rows: the field has no more elements.
pub fn cauchy(rows: usize, columns: usize) -> Vec<u8> {
    assert!(columns <= rows && rows <= 256, "{rows} x {columns}");
    let mut matrix = vec![0; rows * columns];
    // SAFETY: the function writes rows * columns bytes.
    unsafe { gf_gen_cauchy1_matrix(matrix.as_mut_ptr(), int(rows), int(columns)) };
    matrix
}

/// The inverse of a square matrix of `size` rows, `None` when it has none.
///
/// # Panics
/// When `matrix` is not `size` x `size`.
pub fn invert(matrix: &[u8], size: usize) -> Option<Vec<u8>> {
    assert_eq!(matrix.len(), size * size);
    // ISA-L uses its input as scratch space.
    let mut scratch = matrix.to_vec();
    let mut inverse = vec![0; size * size];
    // SAFETY: both have size * size bytes.
    let failed =
        unsafe { gf_invert_matrix(scratch.as_mut_ptr(), inverse.as_mut_ptr(), int(size)) } != 0;
    (!failed).then_some(inverse)
}

/// The product of two matrices: `left` of any number of rows, `right` square of `size`.
///
/// # Panics
/// When their sizes do not fit.
pub fn multiply(left: &[u8], right: &[u8], size: usize) -> Vec<u8> {
    assert!(right.len() == size * size && left.len().is_multiple_of(size));
    let mut product = Vec::with_capacity(left.len());
    for row in left.chunks_exact(size) {
        for column in 0..size {
            let terms = row.iter().zip(right[column..].iter().step_by(size));
            // SAFETY: a pure function of two bytes.
            product.push(terms.fold(0, |sum, (a, b)| sum ^ unsafe { gf_mul(*a, *b) }));
        }
    }
    product
}

/// A matrix made ready to be applied to bytes.
#[derive(Clone, Debug)]
pub struct Tables {
    columns: usize,
    rows: usize,
    bytes: Vec<u8>,
}

impl Tables {
    /// From a matrix with `columns` coefficients in each row.
    ///
    /// # Panics
    /// When `matrix` has no whole rows.
    pub fn new(matrix: &[u8], columns: usize) -> Self {
        assert!(columns > 0 && matrix.len().is_multiple_of(columns));
        let rows = matrix.len() / columns;
        let mut bytes = vec![0; matrix.len() * TABLE];
        // SAFETY: `matrix` has rows * columns bytes, `bytes` 32 times that, as the function needs.
        unsafe { ec_init_tables(int(columns), int(rows), matrix.as_ptr(), bytes.as_mut_ptr()) };
        Self { columns, rows, bytes }
    }

    /// Sources that a product needs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Outputs that a product has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Sets each output to its row's sum of the sources, each times its coefficient.
    ///
    /// # Panics
    /// When the numbers of sources and outputs are not those of the matrix, or lengths differ.
    pub fn apply(&self, sources: &[&[u8]], outputs: &mut [&mut [u8]]) {
        assert!(sources.len() == self.columns && outputs.len() == self.rows);
        let Some(len) = outputs.first().map(|output| output.len()) else { return };
        assert!(sources.iter().all(|source| source.len() == len));
        assert!(outputs.iter().all(|output| output.len() == len));
        let data: Vec<*const u8> = sources.iter().map(|source| source.as_ptr()).collect();
        let coding: Vec<*mut u8> = outputs.iter_mut().map(|output| output.as_mut_ptr()).collect();
        // SAFETY: as many addresses as the tables were made for, each of `len` bytes; the outputs
        // are exclusive borrows, so they overlap neither the sources nor each other.
        unsafe {
            ec_encode_data(
                int(len),
                int(self.columns),
                int(self.rows),
                self.bytes.as_ptr(),
                data.as_ptr(),
                coding.as_ptr(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplication as in the field's definition (x^8 + x^4 + x^3 + x^2 + 1).
    fn by_hand(mut a: u8, mut b: u8) -> u8 {
        let mut product = 0;
        while b != 0 {
            if b & 1 != 0 {
                product ^= a;
            }
            a = (a << 1) ^ if a & 0x80 != 0 { 0x1d } else { 0 };
            b >>= 1;
        }
        product
    }

    #[test]
    fn products_are_those_of_the_field() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(multiply(&[a], &[b], 1), [by_hand(a, b)]);
            }
        }
    }

    #[test]
    fn a_matrix_times_its_inverse_is_the_identity() {
        let matrix = cauchy(9, 5);
        let identity = &matrix[..25];
        let square = &matrix[20..45];
        let inverse = invert(square, 5).unwrap();
        assert_eq!(multiply(square, &inverse, 5), identity);
        assert_eq!(invert(&[1, 2, 1, 2], 2), None);
    }

    #[test]
    fn every_length_is_computed_to_its_end() {
        let matrix = [3, 7, 1, 1, 0, 9];
        let tables = Tables::new(&matrix, 2);
        for len in [0, 1, 15, 16, 31, 33, 64, 100, 257, 4096] {
            let first: Vec<u8> = (0..len).map(|i| (i * 7 + 1) as u8).collect();
            let second: Vec<u8> = (0..len).map(|i| (i * 13 + 5) as u8).collect();
            let mut outputs = vec![vec![0xee; len]; 3];
            let mut slices: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
            tables.apply(&[&first, &second], &mut slices);
            for (row, output) in matrix.chunks(2).zip(&outputs) {
                let expected = first.iter().zip(&second);
                let expected: Vec<u8> =
                    expected.map(|(a, b)| by_hand(row[0], *a) ^ by_hand(row[1], *b)).collect();
                assert_eq!(*output, expected, "length {len}");
            }
        }
    }
}
