//! What surrounds the network in a sampler's step: the timestep's features, guidance, and the update.

use super::{Case, IMAGES, Operand, Values, case};
use latent_diffusion::ops::{Assign, Blend, Combine, CountNotFinite, Guidance, TimestepEmbedding};

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![];
    for features in [2, 10, 320] {
        let timesteps = Operand::below([IMAGES], 1000);
        let op = TimestepEmbedding { features };
        all.push(case(format!("{features} features"), op, vec![timesteps]));
    }
    for settings in [[7.5, 0.0], [1.0, 0.0], [3.0, 0.7], [12.0, 1.0]] {
        for shape in [[2 * IMAGES, 1, 3, 5], [2 * IMAGES, 16, 16, 4]] {
            let what = format!("scale and rescale {settings:?}, {shape:?}");
            let operands = vec![Operand::halves(shape), Operand::shared(&settings)];
            all.push(case(what, Guidance, operands));
        }
    }
    for coefficients in [&[1.0][..], &[0.5, -1.25], &[0.99, -0.2, 0.0, 1e-3, 0.7]] {
        let terms = coefficients
            .iter()
            .map(|_| Operand::normal([IMAGES, 5, 7, 4]));
        // The last row of a table of three.
        let others = vec![9.0; 2 * coefficients.len()];
        let table = [&others, coefficients].concat();
        let table = Operand::table([3, coefficients.len()], &table);
        let operands = [table, Operand::shared(&[2.0])]
            .into_iter()
            .chain(terms)
            .collect();
        all.push(case(
            format!("coefficients {coefficients:?}"),
            Combine,
            operands,
        ));
    }
    for (combined, copied, terms) in [(1, 0, 1), (2, 3, 5), (4, 4, 8)] {
        let shape = [IMAGES, 5, 7, 4];
        // Every third coefficient is zero, which hides a term from some combinations or from all.
        let table = |vector: usize| {
            let values = (0..2 * terms).map(|i| match (i + vector / 2) % 3 {
                0 => 0.0,
                _ => 0.4 * i as f32 - 1.0,
            });
            Operand::table([2, terms], &values.collect::<Vec<f32>>())
        };
        let mut operands = vec![];
        for vector in 0..combined {
            operands.extend([Operand::normal(shape), table(vector)]);
        }
        operands.extend(vec![Operand::normal(shape); 2 * copied]);
        operands.push(Operand::shared(&[1.0]));
        operands.extend(vec![Operand::normal(shape); terms]);
        let what = format!("{combined} combinations of {terms}, {copied} copies");
        all.push(case(what, Assign { combined, terms }, operands));
    }
    for shape in [[IMAGES, 5, 7, 4], [IMAGES, 1, 1, 3], [IMAGES, 32, 33, 4]] {
        let x = Operand {
            values: Values::Broken,
            ..Operand::normal(shape)
        };
        all.push(case(format!("{shape:?}"), CountNotFinite, vec![x]));
        let operands = vec![Operand::normal(shape); 2];
        all.push(case(format!("{shape:?}"), Assign::default(), operands));
        // More than a launch takes.
        let operands = vec![Operand::normal(shape); 2 * 7];
        let what = format!("{shape:?}, seven at once");
        all.push(case(what, Assign::default(), operands));
        let operands = vec![Operand::normal(shape); 3];
        all.push(case(format!("{shape:?}"), Blend, operands));
    }
    all
}
