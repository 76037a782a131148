package dev.himix.edge;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.Test;

/** Tiles against the Python package's, bit for bit. */
public class TilesTest {
    @Test
    @SuppressWarnings("unchecked")
    public void tilesEqualPythons() {
        List<Map<String, Object>> cases =
                (List<Map<String, Object>>) Files.readJson(Fixtures.file("tiles.json"), 64 << 20);
        for (Map<String, Object> example : cases) {
            String what = example.get("image") + " as " + example.get("layout");
            Map<String, Object> facts = Fixtures.facts((String) example.get("image"));
            Upright picture = new Upright(Fixtures.raw(facts), Fixtures.number(facts, "orientation"));
            ImageLayout layout = new ImageLayout(Fields.of(example.get("layout"), "suite"));
            boolean alone = (Boolean) example.get("alone");
            Tiles tiles = Tiles.cut(picture, Fixtures.number(example, "size"), layout, alone);
            assertEquals(what, Fixtures.number(example, "rows"), tiles.rows);
            assertEquals(what, Fixtures.number(example, "columns"), tiles.columns);
            List<String> digests = new ArrayList<>();
            for (byte[] tile : tiles.pixels) {
                digests.add(Files.sha256(tile));
            }
            assertEquals(what, example.get("tiles"), digests);
        }
        assertTrue(cases.size() + " cases", cases.size() > 200);
    }
}
