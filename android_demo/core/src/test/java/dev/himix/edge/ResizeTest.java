package dev.himix.edge;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.Test;

/** Pixels against Pillow's, bit for bit. */
public class ResizeTest {
    @Test
    public void uprightPixelsEqualPillows() {
        int turned = 0;
        for (String name : Fixtures.json("images.json").keySet()) {
            Map<String, Object> facts = Fixtures.facts(name);
            Map<?, ?> expected = (Map<?, ?>) facts.get("upright");
            for (ImageSource image : decoded(facts)) {
                Upright upright = new Upright(image, Fixtures.number(facts, "orientation"));
                assertEquals(name, Fixtures.number(expected, "width"), upright.width());
                assertEquals(name, Fixtures.number(expected, "height"), upright.height());
                assertEquals(name, expected.get("sha256"), Files.sha256(pixels(upright)));
                turned += Fixtures.number(facts, "orientation") > 1 ? 1 : 0;
            }
        }
        assertTrue(turned >= 14);
    }

    @Test
    @SuppressWarnings("unchecked")
    public void resizedPixelsEqualPillows() {
        int cases = 0;
        for (String name : Fixtures.json("images.json").keySet()) {
            Map<String, Object> facts = Fixtures.facts(name);
            for (ImageSource image : decoded(facts)) {
                for (Map<String, Object> example : (List<Map<String, Object>>) facts.get("resized")) {
                    Resize.Filter filter = Resize.Filter.of((String) example.get("method"), "suite");
                    int size = Fixtures.number(example, "size");
                    Upright upright = new Upright(image, Fixtures.number(facts, "orientation"));
                    String what = name + " to " + size + ", " + filter;
                    assertEquals(what, example.get("sha256"), Files.sha256(Resize.toSquare(upright, size, filter)));
                    cases++;
                }
            }
        }
        assertTrue(cases + " cases", cases > 600);
    }

    /** A portrait photo: 400 x 300 pixels that lie on their side. */
    @Test
    public void aPhotoOnItsSideIsFetchedOnceAndInBands() {
        for (int orientation = 5; orientation <= 8; orientation++) {
            int[] calls = {0, 0};
            ImageSource stored = new ImageSource() {
                @Override
                public int width() {
                    return 400;
                }

                @Override
                public int height() {
                    return 300;
                }

                @Override
                public void block(int x, int y, int width, int height, int[] argb) {
                    calls[0]++;
                    calls[1] += width * height;
                    for (int i = 0; i < width * height; i++) {
                        argb[i] = 0xFF000000 | (x + i % width) << 9 | y + i / width;
                    }
                }
            };
            Upright upright = new Upright(stored, orientation);
            int[] row = new int[300];
            for (int y = 0; y < 400; y++) {
                upright.row(y, row);
                int x = orientation == 5 || orientation == 6 ? y : 399 - y;
                for (int at = 0; at < 300; at++) {
                    int down = orientation == 5 || orientation == 8 ? at : 299 - at;
                    assertEquals(0xFF000000 | x << 9 | down, row[at]);
                }
            }
            assertEquals("pixels fetched", 400 * 300, calls[1]);
            assertTrue(calls[0] + " fetches", calls[0] <= 400 / Upright.BAND + 1);
        }
    }

    /** The stored pixels; and those of the file, where this machine's decoder leaves them as they are. */
    private static List<ImageSource> decoded(Map<String, Object> facts) {
        List<ImageSource> images = new ArrayList<>();
        images.add(Fixtures.raw(facts));
        boolean colours = facts.get("mode").equals("RGB") || facts.get("mode").equals("RGBA");
        if (colours && facts.get("lossless").equals(true)) {
            images.add(Fixtures.image(Fixtures.file((String) facts.get("file"))));
        }
        return images;
    }

    private static byte[] pixels(Upright image) {
        byte[] rgb = new byte[3 * image.width() * image.height()];
        int[] row = new int[image.width()];
        int at = 0;
        for (int y = 0; y < image.height(); y++) {
            image.row(y, row);
            for (int argb : row) {
                rgb[at++] = (byte) (argb >> 16);
                rgb[at++] = (byte) (argb >> 8);
                rgb[at++] = (byte) argb;
            }
        }
        return rgb;
    }
}
