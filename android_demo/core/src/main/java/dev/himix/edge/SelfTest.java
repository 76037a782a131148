package dev.himix.edge;

import java.util.ArrayList;
import java.util.List;

/** A bundle's self-test: one image, one prompt, the exact answer it has to give on any device. */
public final class SelfTest {
    public final boolean pixelsEqual; // the resized image against its digest
    public final String answer;
    public final String expected;
    public final boolean passed; // whether pixels and token ids are exactly the expected ones

    private SelfTest(boolean pixelsEqual, String answer, String expected, boolean passed) {
        this.pixelsEqual = pixelsEqual;
        this.answer = answer;
        this.expected = expected;
        this.passed = passed;
    }

    /** Runs it on the bundle's own image. Throws InputException if the bundle cannot answer at all. */
    public static SelfTest run(Session session, Session.Photo image) {
        Bundle.SelfTestCase test = session.bundle.selfTest;
        byte[] pixels = Resize.toSquare(image.decode(), session.bundle.model.imageSize, session.bundle.filter);
        boolean pixelsEqual = Files.sha256(pixels).equals(test.pixelsSha256);
        Session.Options options = session.defaults();
        options.temperature = 0;
        options.maxNewTokens = test.tokenIds.length + (test.ends ? 1 : 0);
        final List<Integer> tokens = new ArrayList<Integer>();
        final StringBuilder answer = new StringBuilder();
        session.generate(
                test.prompt,
                image,
                options,
                new Session.Listener() {
                    @Override
                    public boolean onToken(int token, String text) {
                        tokens.add(token);
                        answer.append(text);
                        return true;
                    }
                });
        boolean tokensEqual = tokens.size() == test.tokenIds.length;
        for (int i = 0; tokensEqual && i < test.tokenIds.length; i++) {
            tokensEqual = tokens.get(i) == test.tokenIds[i];
        }
        return new SelfTest(pixelsEqual, answer.toString(), test.text, pixelsEqual && (tokensEqual || !test.decisive));
    }
}
