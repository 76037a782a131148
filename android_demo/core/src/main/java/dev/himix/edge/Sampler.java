package dev.himix.edge;

import java.util.Arrays;
import java.util.Comparator;
import java.util.Random;

/** Greedy at temperature 0, else nucleus sampling (Holtzman et al., arXiv 1904.09751). */
public final class Sampler {
    private final double temperature;
    private final double topP;
    private final Random random;

    /** Throws InputException for a temperature below 0 or topP outside (0, 1]. The seed makes sampling repeatable. */
    public Sampler(double temperature, double topP, long seed) {
        if (!(temperature >= 0 && temperature <= Double.MAX_VALUE)) {
            throw new InputException("temperature is " + temperature + "; it must be 0 (greedy) or more");
        }
        if (!(topP > 0 && topP <= 1)) {
            throw new InputException("top_p is " + topP + "; it must be above 0 and at most 1");
        }
        this.temperature = temperature;
        this.topP = topP;
        this.random = new Random(seed);
    }

    /** The next token's id, from logits (V,). */
    public int pick(float[] logits) {
        if (temperature == 0) {
            int best = 0;
            for (int i = 1; i < logits.length; i++) {
                if (logits[i] > logits[best]) {
                    best = i;
                }
            }
            return best;
        }
        double[] probabilities = probabilities(logits);
        double left = random.nextDouble();
        int last = 0;
        for (int i = 0; i < probabilities.length; i++) {
            if (probabilities[i] > 0) {
                last = i;
                left -= probabilities[i];
                if (left < 0) {
                    break;
                }
            }
        }
        return last;
    }

    /** (V,): the smallest set of likeliest tokens that reaches topP, renormalised. */
    double[] probabilities(float[] logits) {
        final double[] weights = new double[logits.length];
        double most = Double.NEGATIVE_INFINITY;
        for (float logit : logits) {
            most = Math.max(most, logit);
        }
        double total = 0;
        Integer[] order = new Integer[logits.length];
        for (int i = 0; i < weights.length; i++) {
            weights[i] = Math.exp((logits[i] - most) / temperature); // the least temperature divides 0
            total += weights[i];
            order[i] = i;
        }
        Arrays.sort(
                order,
                new Comparator<Integer>() {
                    @Override
                    public int compare(Integer a, Integer b) {
                        return Double.compare(weights[b], weights[a]);
                    }
                });
        double before = 0;
        double kept = 0;
        for (int i : order) {
            weights[i] /= total;
            double weight = weights[i];
            if (before >= topP) {
                weights[i] = 0;
            }
            kept += weights[i];
            before += weight;
        }
        for (int i = 0; i < weights.length; i++) {
            weights[i] /= kept;
        }
        return weights;
    }
}
