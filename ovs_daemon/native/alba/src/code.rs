//! The erasure code: k + m fragments over all Domains, and local parity over the share of each.
//!
//! Both are computed together, stripe by stripe: a stripe of every fragment stays in the
//! processor's cache, so that local parity reads no data again from memory.

use isal::Tables;
use machines::alba::{Layout, Over, Step};

/// Bytes of each fragment in a stripe: 16 data fragments and 11 of parity are under 512 KiB.
const STRIPE: usize = 16 << 10;

/// Encodes and decodes the pieces of one layout.
#[derive(Clone, Debug)]
pub struct Codec {
    layout: Layout,
    global_matrix: Vec<u8>,
    global: Tables,
    /// By group: the matrix of its code, and its rows of parity made ready.
    groups: Vec<(Vec<u8>, Tables)>,
}

fn parity_rows(matrix: &[u8], data: usize) -> Tables {
    Tables::new(&matrix[data * data..], data)
}

impl Codec {
    /// For this layout.
    pub fn new(layout: Layout) -> Self {
        let global_matrix = isal::cauchy(layout.global(), layout.data());
        let group = |group| {
            let members = layout.member_count(group);
            let matrix = isal::cauchy(members + layout.local(), members);
            let tables = parity_rows(&matrix, members);
            (matrix, tables)
        };
        Self {
            global: parity_rows(&global_matrix, layout.data()),
            groups: (0..layout.domains()).map(group).collect(),
            global_matrix,
            layout,
        }
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Computes the parity fragments of `data` fragments: the global ones, then the local ones of
    /// each group. All have the same length, a multiple of 4 KiB.
    ///
    /// # Panics
    /// When the numbers are not those of the layout, or lengths differ.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        // Without local parity nothing is read twice, and one call is as good as many.
        let step = if self.layout.local() == 0 { data[0].len().max(1) } else { STRIPE };
        self.encode_in(step, data, parity, &mut |_, _| {});
    }

    /// The same; shows `see` every stripe of each fragment, data and parity, by the fragment's
    /// number and from front to back, while it is in the processor's cache.
    pub fn encode_seen(
        &self,
        data: &[&[u8]],
        parity: &mut [&mut [u8]],
        see: &mut dyn FnMut(usize, &[u8]),
    ) {
        self.encode_in(STRIPE, data, parity, see);
    }

    fn encode_in(
        &self,
        step: usize,
        data: &[&[u8]],
        parity: &mut [&mut [u8]],
        see: &mut dyn FnMut(usize, &[u8]),
    ) {
        let layout = &self.layout;
        assert_eq!(data.len(), layout.data());
        assert_eq!(data.len() + parity.len(), layout.fragments());
        let len = data[0].len();
        let (global, local) = parity.split_at_mut(layout.parity());
        for start in (0..len).step_by(step) {
            let stripe = start..len.min(start + step);
            let sources: Vec<&[u8]> = data.iter().map(|one| &one[stripe.clone()]).collect();
            let mut outputs: Vec<&mut [u8]> =
                global.iter_mut().map(|one| &mut one[stripe.clone()]).collect();
            self.global.apply(&sources, &mut outputs);
            for (group, locals) in local.chunks_mut(layout.local().max(1)).enumerate() {
                let member = |fragment: usize| match fragment.checked_sub(layout.data()) {
                    None => sources[fragment],
                    Some(parity) => &*outputs[parity],
                };
                let members: Vec<&[u8]> = layout.members(group).map(member).collect();
                let mut locals: Vec<&mut [u8]> =
                    locals.iter_mut().map(|one| &mut one[stripe.clone()]).collect();
                self.groups[group].1.apply(&members, &mut locals);
            }
            let outputs = outputs.iter().map(|one| &**one);
            let locals = local.iter().map(|one| &one[stripe.clone()]);
            let all = sources.iter().copied().chain(outputs).chain(locals);
            all.enumerate().for_each(|(number, one)| see(number, one));
        }
    }

    /// Performs one step of [`machines::alba::plan`]: fills in the fragments that come out.
    ///
    /// # Panics
    /// When a source is missing or lengths differ.
    pub fn recover(&self, step: &Step, fragments: &mut [Option<Vec<u8>>]) {
        let tables = self.recipe(step);
        let len = fragments[step.sources[0]].as_ref().map_or(0, Vec::len);
        let mut outputs = vec![vec![0; len]; step.outputs.len()];
        let source = |number: &usize| fragments[*number].as_deref().expect("a plan's sources");
        let sources: Vec<&[u8]> = step.sources.iter().map(source).collect();
        for start in (0..len).step_by(STRIPE) {
            let stripe = start..len.min(start + STRIPE);
            let sources: Vec<&[u8]> = sources.iter().map(|one| &one[stripe.clone()]).collect();
            let mut outputs: Vec<&mut [u8]> =
                outputs.iter_mut().map(|one| &mut one[stripe.clone()]).collect();
            tables.apply(&sources, &mut outputs);
        }
        for (number, output) in step.outputs.iter().zip(outputs) {
            fragments[*number] = Some(output);
        }
    }

    /// The rows by which the sources of a step become its outputs.
    fn recipe(&self, step: &Step) -> Tables {
        let (matrix, columns) = match step.over {
            Over::Global => (&self.global_matrix, self.layout.data()),
            Over::Group(group) => (&self.groups[group].0, self.layout.member_count(group)),
        };
        let rows = |fragments: &[usize]| -> Vec<u8> {
            let row = |fragment: &usize| self.row_of(step.over, *fragment) * columns;
            fragments.iter().flat_map(|f| &matrix[row(f)..row(f) + columns]).copied().collect()
        };
        let inverse = isal::invert(&rows(&step.sources), columns);
        let inverse = inverse.expect("any rows of a Cauchy matrix can be inverted");
        Tables::new(&isal::multiply(&rows(&step.outputs), &inverse, columns), columns)
    }

    /// The row of a fragment in the matrix of a code; liberasurecode's index of it.
    pub fn row_of(&self, over: Over, fragment: usize) -> usize {
        let layout = &self.layout;
        match over {
            Over::Global => fragment,
            Over::Group(group) if fragment < layout.global() => {
                (fragment - group) / layout.domains()
            }
            Over::Group(group) => {
                fragment - layout.locals(group).start + layout.member_count(group)
            }
        }
    }
}
