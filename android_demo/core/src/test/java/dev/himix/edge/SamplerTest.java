package dev.himix.edge;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.List;
import java.util.Map;
import org.junit.Test;

public class SamplerTest {
    @Test
    @SuppressWarnings("unchecked")
    public void probabilitiesEqualPythons() {
        List<Map<String, Object>> cases = (List<Map<String, Object>>) Fixtures.json("sampling.json").get("probabilities");
        assertTrue(cases.size() >= 8);
        for (Map<String, Object> example : cases) {
            double temperature = ((Number) example.get("temperature")).doubleValue();
            Sampler sampler = new Sampler(temperature, ((Number) example.get("top_p")).doubleValue(), 0);
            double[] expected =
                    ((List<?>) example.get("probabilities")).stream().mapToDouble(n -> ((Number) n).doubleValue()).toArray();
            float[] logits = Fixtures.floats(example.get("logits"));
            assertArrayEquals(expected, sampler.probabilities(logits), 1e-12);
            assertEquals(Fixtures.number(example, "greedy"), new Sampler(0, 1, 0).pick(logits));
        }
    }

    @Test
    public void drawsFollowTheProbabilities() {
        float[] logits = {1, 0, 2, -9};
        Sampler sampler = new Sampler(1, 0.95, 11);
        double[] expected = sampler.probabilities(logits);
        int[] drawn = new int[4];
        for (int i = 0; i < 20_000; i++) {
            drawn[sampler.pick(logits)]++;
        }
        for (int i = 0; i < 4; i++) {
            assertEquals(expected[i], drawn[i] / 20_000.0, 0.015);
        }
        assertEquals(0, drawn[3]);
    }

    @Test
    public void greedyTakesTheFirstOfTheBest() {
        assertEquals(1, new Sampler(0, 1, 0).pick(new float[] {0, 3, 3, 1}));
    }

    @Test
    public void badSettingsAreRefused() {
        assertThrows(InputException.class, () -> new Sampler(-1, 1, 0));
        assertThrows(InputException.class, () -> new Sampler(Double.NaN, 1, 0));
        assertThrows(InputException.class, () -> new Sampler(1, 0, 0));
        assertThrows(InputException.class, () -> new Sampler(1, 1.1, 0));
    }
}
