//! From values to places on a drawing.

/// An axis between two places; logarithmic where values differ by more than a hundred times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    from: f64,
    to: f64,
}

impl Axis {
    /// Of all these values, drawn from one place to another.
    pub(super) fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Axis {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| value.is_finite()) {
            (least, most) = (least.min(value), most.max(value));
        }
        if least > 0.0 && most / least >= 100.0 {
            let (low, high) = (10f64.powf(least.log10().floor()), 10f64.powf(most.log10().ceil()));
            return Axis { low, high, logarithmic: true, from, to };
        }
        let high = if most > 0.0 { most * 1.05 } else { 1.0 };
        Axis { low: 0.0, high, logarithmic: false, from, to }
    }

    pub(super) fn place(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(self.low) / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    /// Round values along the axis.
    pub(super) fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let decades = (self.high / self.low).log10().round() as i32;
            return (0..=decades).map(|decade| self.low * 10f64.powi(decade)).collect();
        }
        let rough = self.high / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let count = (self.high / step).floor() as u32;
        (0..=count).map(|tick| f64::from(tick) * step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Axis;

    #[test]
    fn ticks_are_round_and_wide_ranges_logarithmic() {
        let axis = Axis::over([3.0, 47.0].into_iter(), 0.0, 100.0);
        assert_eq!(axis.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(axis.place(0.0), 0.0);
        let axis = Axis::over([20.0, 90_000.0].into_iter(), 0.0, 100.0);
        assert_eq!(axis.ticks().len(), 5);
        assert_eq!((axis.place(10.0), axis.place(100_000.0).round()), (0.0, 100.0));
    }
}
