package dev.himix.edge;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.List;
import java.util.Map;
import org.junit.Test;

/** Pixels against Pillow's, bit for bit. */
public class ResizeTest {
    @Test
    public void resizedPixelsEqualPillows() {
        List<Map<String, Object>> cases = Fixtures.cases("resized");
        assertTrue(cases.size() >= 60);
        for (Map<String, Object> example : cases) {
            ImageSource image = Fixtures.image(new File(Fixtures.FOLDER, (String) example.get("image")));
            int size = ((Number) example.get("size")).intValue();
            Resize.Filter filter = Resize.Filter.of((String) example.get("method"), "fixture");
            byte[] pixels = Resize.toSquare(new Upright(image, 1), size, filter);
            assertEquals(
                    image.width() + " x " + image.height() + " to " + size + ", " + filter,
                    example.get("sha256"), Files.sha256(pixels));
        }
    }

    @Test
    public void everyExifOrientationIsTurnedAsPillowDoes() {
        ImageSource image = Fixtures.image(new File(Fixtures.FOLDER, "images/oriented.png"));
        List<Map<String, Object>> cases = Fixtures.cases("oriented");
        assertEquals(8, cases.size());
        for (Map<String, Object> example : cases) {
            Upright upright = new Upright(image, ((Number) example.get("orientation")).intValue());
            assertEquals(((Number) example.get("width")).intValue(), upright.width());
            assertEquals(
                    example.get("orientation").toString(), example.get("sha256"),
                    Files.sha256(Resize.toSquare(upright, 16, Resize.Filter.BILINEAR)));
        }
    }
}
