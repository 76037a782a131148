package dev.himix.edge.demo;

import android.app.Activity;
import android.os.Bundle;
import android.view.View;
import android.widget.Button;
import android.widget.TextView;
import dev.himix.edge.OnnxRuntime;
import dev.himix.edge.SelfTest;

/** Whether this device computes exactly what the bundle says it has to. */
public final class SelfTestActivity extends Activity implements Demo.Observer {
    private Demo demo;
    private TextView headline;
    private TextView details;
    private Button again;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.report);
        Edges.pad(findViewById(R.id.root));
        demo = Demo.of(this);
        headline = (TextView) findViewById(R.id.headline);
        details = (TextView) findViewById(R.id.details);
        again = (Button) findViewById(R.id.again);
        again.setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                demo.test();
            }
        });
        if (saved == null) {
            demo.test();
        }
    }

    @Override
    protected void onStart() {
        super.onStart();
        demo.add(this);
    }

    @Override
    protected void onStop() {
        demo.remove(this);
        super.onStop();
    }

    @Override
    public void changed() {
        SelfTest result = demo.selfTest;
        boolean passed = result != null && result.passed;
        again.setEnabled(!demo.busy);
        if (demo.busy) {
            headline.setText(R.string.running);
            headline.setTextColor(details.getTextColors());
            details.setText("");
            return;
        }
        headline.setText(passed ? R.string.passed : R.string.failed);
        headline.setTextColor(getColor(passed ? R.color.passed : R.color.failed));
        if (result == null) {
            details.setText(demo.error);
        } else {
            details.setText(
                    getString(
                            R.string.self_test_details, demo.bundle, OnnxRuntime.version(),
                            getString(result.pixelsEqual ? R.string.equal : R.string.different), result.answer,
                            result.expected));
        }
    }
}
